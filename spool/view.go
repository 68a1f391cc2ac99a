package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"time"
)

// View is what a spool held at an instant. It takes no lock and changes nothing,
// so it can be taken beside the process that writes: what that appends later is
// not in it, and what it sends meanwhile may be missing when records are read.
// A View is not safe for concurrent use.
type View struct {
	status Status
	rec    Recovery
	main   *survey
	aside  *survey
}

// Inspect reads a spool from beginning to end, with flat memory, and checks all
// of it.
func Inspect(ctx context.Context, dir string, opts Options) (*View, error) {
	began := time.Now()
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	dir = filepath.Clean(dir)
	v := &View{}
	if v.main, err = takeSurvey(ctx, opts.FS, dir); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if v.aside, err = takeSurvey(ctx, opts.FS, filepath.Join(dir, asideDir)); errors.Is(err, fs.ErrNotExist) {
		v.aside, err = &survey{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := v.count(ctx); err != nil {
		return nil, err
	}
	q := quarantine{opts.FS, dir}
	v.status.Quarantined = q.count()
	v.rec.Damage = append(v.main.damage(q, ""), v.aside.damage(q, asideDir)...)
	v.rec.Took = time.Since(began)
	return v, nil
}

// count fills in the figures.
func (v *View) count(ctx context.Context) error {
	err := v.eachAside(ctx, func(a Aside) bool {
		v.status.SetAside++
		for _, p := range v.main.parts {
			if a.Seq >= p.first {
				p.mark(a.Seq) // the mark that says so may be missing
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, s := range []*survey{v.main, v.aside} {
		v.rec.TornBytes += s.torn
		v.rec.BadMarks += s.badMarks
		for _, p := range s.parts {
			v.status.Bytes += p.live()
			if p.records > 0 {
				v.status.Segments++
			}
		}
	}
	for _, p := range slices.Backward(v.main.parts) {
		v.status.Pending += p.pending
		if p.pending > 0 {
			v.status.Oldest = time.Unix(0, p.near(p.oldest()).at)
		}
	}
	v.rec.Pending, v.rec.Bytes, v.rec.SetAside = v.status.Pending, v.status.Bytes, v.status.SetAside
	return nil
}

// damage describes what cannot be read, and names the file in quarantine where
// there is one.
func (v *survey) damage(q quarantine, sub string) []Damage {
	var all []Damage
	for _, p := range v.parts {
		for _, g := range p.gaps {
			d := q.describe(sub, p.first, g)
			if f, err := q.fs.OpenFile(filepath.Join(q.root, d.File), readOnly); err != nil {
				d.File = ""
			} else {
				_ = f.Close() // it was only looked for
			}
			all = append(all, d)
		}
	}
	return all
}

// Status tells the figures.
func (v *View) Status() Status { return v.status }

// Recovery tells what Open would find. Beside a process that writes, TornBytes
// may be an append that is being written.
func (v *View) Recovery() Recovery { return v.rec }

// Pending yields the records that wait, in order, read from the disk one by one.
// It ends after the first error.
func (v *View) Pending(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, p := range v.main.parts {
			more, err := v.main.pending(ctx, p, func(r found) bool { return yield(r.record(), nil) })
			if err != nil {
				yield(Record{}, fmt.Errorf("spool: read: %w", err))
				return
			}
			if !more {
				return
			}
		}
	}
}

// SetAside yields the records that were set aside, in the order in which that
// was done. It ends after the first error.
func (v *View) SetAside(ctx context.Context) iter.Seq2[Aside, error] {
	return func(yield func(Aside, error) bool) {
		if err := v.eachAside(ctx, func(a Aside) bool { return yield(a, nil) }); err != nil {
			yield(Aside{}, err)
		}
	}
}

func (v *View) eachAside(ctx context.Context, yield func(Aside) bool) error {
	seen := make(map[uint64]bool)
	for _, p := range v.aside.parts {
		more, err := v.aside.pending(ctx, p, func(r found) bool {
			seq, at, reason, data, ok := decodeAside(r.data)
			if !ok || seen[seq] {
				return true
			}
			seen[seq] = true
			return yield(Aside{Record{seq, time.Unix(0, at), slices.Clone(data)}, reason, time.Unix(0, r.at)})
		})
		if err != nil {
			return fmt.Errorf("spool: read: %w", err)
		}
		if !more {
			return nil
		}
	}
	return nil
}
