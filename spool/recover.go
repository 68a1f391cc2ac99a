package spool

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// recover finds out what both journals hold and repairs them.
func (l *Log) recover(ctx context.Context, dir string) (Recovery, error) {
	var rec Recovery
	var err error
	if err := l.opts.FS.Prepare(filepath.Join(dir, asideDir)); err != nil {
		return rec, fmt.Errorf("spool: %w", err)
	}
	var kept *survey
	if l.aside, kept, err = l.repair(ctx, dir, asideDir, &rec); err != nil {
		return rec, err
	}
	if l.main, _, err = l.repair(ctx, dir, "", &rec); err != nil {
		return rec, err
	}
	return rec, l.index(ctx, kept)
}

// repair opens the journal in a folder of the spool.
func (l *Log) repair(ctx context.Context, root, sub string, rec *Recovery) (*journal, *survey, error) {
	dir := filepath.Join(root, sub)
	v, err := takeSurvey(ctx, l.opts.FS, dir)
	if err != nil {
		return nil, nil, err
	}
	rec.TornBytes += v.torn
	rec.BadMarks += v.badMarks
	for _, p := range v.parts {
		for _, g := range p.gaps {
			d := l.quar.save(sub, p.first, g)
			p.held = p.held || d.Err != nil
			rec.Damage = append(rec.Damage, d)
		}
	}
	j := &journal{fs: l.opts.FS, dir: dir, limit: l.opts.SegmentBytes, seq: v.seq}
	if err := v.clean(); err != nil {
		return nil, nil, fmt.Errorf("spool: repair %s: %w", dir, err)
	}
	for _, p := range v.parts {
		j.segs = append(j.segs, p.segment)
		if err := j.cut(p); err != nil {
			return nil, nil, fmt.Errorf("spool: repair %s: %w", dir, err)
		}
	}
	return j, v, nil
}

// clean removes what counts for nothing.
func (v *survey) clean() error {
	for _, first := range v.dead {
		if err := removeSegment(v.fs, v.dir, first); err != nil {
			return err
		}
	}
	if len(v.orphans) > 0 {
		// The removal of their segments must be durable before they go.
		if err := v.fs.SyncDir(v.dir); err != nil {
			return err
		}
	}
	for _, name := range v.orphans {
		if err := removed(v.fs.Remove(filepath.Join(v.dir, name))); err != nil {
			return err
		}
	}
	return nil
}

// cut takes off what is behind the end of a segment: a torn tail, or the remains
// of a write that failed. Nothing is ever appended to a file of an earlier
// process: nobody knows what syncs have failed there.
func (j *journal) cut(p *part) error {
	if p.torn == 0 && (!p.ended || p.length <= p.end) {
		return nil
	}
	f, err := j.fs.OpenFile(j.path(segmentName(p.first)), readWrite)
	if err != nil {
		return err
	}
	err = f.Truncate(p.size)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// index looks up what was set aside. It counts as done where it was, whether the
// mark that says so has survived or not.
func (l *Log) index(ctx context.Context, kept *survey) error {
	for _, p := range kept.parts {
		_, err := kept.pending(ctx, p, func(r found) bool {
			seq, _, _, _, ok := decodeAside(r.data)
			if !ok {
				return true // no writer of ours makes such a record; it stays where it is
			}
			if _, twice := l.entries[seq]; twice {
				p.mark(r.seq) // set aside again after an unknown outcome
				return true
			}
			l.entries[seq] = entry{r.seq, place{p.first, r.off, r.bytes()}}
			l.main.seq = max(l.main.seq, seq+1)
			if s := l.main.segmentOf(seq); s != nil && s.mark(seq) {
				l.main.unmarked = append(l.main.unmarked, marks{s, span{seq, seq + 1}})
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}
