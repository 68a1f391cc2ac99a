package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

func (p *program) objectCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "object", Short: "Look into object stores, put and get objects, watch them",
		Example: `  holdfast object ls                                the stores
  holdfast object ls files                          the objects of one
  holdfast object put files report.pdf report.pdf --create
  holdfast object get files report.pdf copy.pdf
  holdfast object watch files                       what changes, until Ctrl-C`,
	})
	cmd.AddCommand(p.objectList(), p.objectGet(), p.objectPut(), p.objectWatch())
	return cmd
}

// objectRow is an object as ls, put and watch print it.
type objectRow struct {
	Bucket   string            `json:"bucket"`
	Name     string            `json:"name"`
	Size     uint64            `json:"size"`
	Chunks   uint32            `json:"chunks"`
	Digest   string            `json:"digest,omitempty"`
	Time     time.Time         `json:"time"`
	Deleted  bool              `json:"deleted,omitempty"`
	Link     string            `json:"link,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func objectRowOf(i *jetstream.ObjectInfo) objectRow {
	r := objectRow{Bucket: i.Bucket, Name: i.Name, Size: i.Size, Chunks: i.Chunks, Digest: i.Digest, Time: i.ModTime, Deleted: i.Deleted, Metadata: i.Metadata}
	if i.Opts != nil && i.Opts.Link != nil {
		r.Link = i.Opts.Link.Bucket + "/" + i.Opts.Link.Name
	}
	return r
}

func (p *program) objectList() *cobra.Command {
	f := bucketFlags{}
	cmd := &cobra.Command{
		Use: "ls [BUCKET]", Aliases: []string{"list"}, Short: "List object stores, or the objects of one",
		Args: args(0, 1, "at most one object store"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return p.withJetStream(cmd.Context(), f.timeout, p.listStores)
			}
			return p.withObjects(cmd.Context(), f, 0, args[0], p.listObjects)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f.add(cmd, "object store")
	p.outputFlag(cmd)
	return cmd
}

func (p *program) listStores(ctx context.Context, js *jetstream.Transport) error {
	var rows []bucketRow
	all := js.JetStream().ObjectStores(ctx)
	for s := range all.Status() {
		row := bucketRow{Bucket: s.Bucket(), Bytes: s.Size(), Replicas: s.Replicas()}
		if s.TTL() > 0 {
			row.TTL = s.TTL().String()
		}
		rows = append(rows, row)
	}
	if err := all.Error(); err != nil {
		return brokerError(err)
	}
	if len(rows) == 0 {
		p.Sayf("no object stores")
	}
	return ui.List(p.UI, rows, func(r bucketRow) string { return r.Bucket },
		ui.Column[bucketRow]{Name: "bucket", Whole: true, Value: func(r bucketRow) string { return r.Bucket }},
		ui.Column[bucketRow]{Name: "bytes", Value: func(r bucketRow) string { return strconv.FormatUint(r.Bytes, 10) }},
		ui.Column[bucketRow]{Name: "ttl", Value: func(r bucketRow) string { return r.TTL }},
		ui.Column[bucketRow]{Name: "replicas", Value: func(r bucketRow) string { return strconv.Itoa(r.Replicas) }},
	)
}

func (p *program) listObjects(ctx context.Context, s *jetstream.ObjectStore) error {
	var rows []objectRow
	for info, err := range s.List(ctx) {
		if err != nil {
			return brokerError(err)
		}
		rows = append(rows, objectRowOf(info))
	}
	if len(rows) == 0 {
		p.Sayf("no objects")
	}
	now := time.Now()
	return ui.List(p.UI, rows, func(r objectRow) string { return r.Name },
		ui.Column[objectRow]{Name: "name", Whole: true, Value: func(r objectRow) string { return r.Name }},
		ui.Column[objectRow]{Name: "bytes", Value: func(r objectRow) string { return strconv.FormatUint(r.Size, 10) }},
		ui.Column[objectRow]{Name: "changed", Value: func(r objectRow) string { return p.when(r.Time, now) }},
		ui.Column[objectRow]{Name: "link", Value: func(r objectRow) string { return r.Link }},
	)
}

func (p *program) objectGet() *cobra.Command {
	f := bucketFlags{}
	cmd := &cobra.Command{
		Use: "get BUCKET NAME [FILE|-]", Short: "Write an object to a file, or to stdout",
		Long: `Writes an object to a file, or to stdout. The file is there, or takes the place of
one of that name, only when all bytes have come and their digest is right. What is
written to stdout is complete only if the command ends with exit code 0.`,
		Args: args(2, 3, "an object store, a name and at most one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withObjects(cmd.Context(), f, 0, args[0], func(ctx context.Context, s *jetstream.ObjectStore) error {
				r, err := s.Get(ctx, args[1])
				if err != nil {
					return brokerError(err)
				}
				defer r.Close() //nolint:errcheck // it never fails
				if len(args) == 2 || args[2] == "-" {
					out := p.Raw()
					_, err := io.Copy(out, r)
					return errors.Join(brokerError(err), out.Close())
				}
				return brokerError(writeWhole(args[2], r))
			})
		},
	}
	f.add(cmd, "object store")
	return cmd
}

// writeWhole writes r to a file that takes its name only when it is complete.
func writeWhole(name string, r io.Reader) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = io.Copy(tmp, r)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

func (p *program) objectPut() *cobra.Command {
	f := bucketFlags{}
	var description string
	cmd := &cobra.Command{
		Use: "put BUCKET NAME [FILE|-]", Short: "Store a file, or stdin, as an object",
		Long: `Stores a file, or stdin, as an object. Nobody sees anything of it before all is
stored; what was there before stays until then.`,
		Args: args(2, 3, "an object store, a name and at most one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, end, err := p.input(args[2:])
			if err != nil {
				return err
			}
			defer end()
			return p.withObjects(cmd.Context(), f, 0, args[0], func(ctx context.Context, s *jetstream.ObjectStore) error {
				info, err := s.Put(ctx, jetstream.ObjectMeta{Name: args[1], Description: description}, in)
				if err != nil {
					return brokerError(err)
				}
				return p.One(objectRowOf(info), info.Name, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "stored %s  %s  %s\n", ui.Line(info.Name), plural(int(info.Size), "byte"), info.Digest)
					return err
				})
			})
		},
	}
	cmd.Flags().StringVar(&description, "description", "", "what it is, in a few words")
	f.add(cmd, "object store")
	p.outputFlag(cmd)
	return cmd
}

// input is the file that is named, or stdin.
func (p *program) input(args []string) (in io.Reader, end func(), err error) {
	switch {
	case len(args) == 1 && args[0] != "-":
		f, err := os.Open(args[0])
		if err != nil {
			return nil, nil, err
		}
		return f, func() { _ = f.Close() }, nil // opened for reading
	case len(args) == 0 && p.InTTY:
		return nil, nil, ui.Usagef("nothing to store: name a file, write - to type it, or pipe it in")
	default:
		return p.In, func() {}, nil
	}
}

func (p *program) objectWatch() *cobra.Command {
	f := watchFlags{}
	cmd := &cobra.Command{
		Use: "watch BUCKET", Short: "Print what changes in an object store, until Ctrl-C",
		Args: args(1, 1, "an object store"),
		RunE: func(cmd *cobra.Command, args []string) error {
			start, err := f.policy()
			if err != nil {
				return err
			}
			return p.withJetStream(cmd.Context(), 0, func(ctx context.Context, js *jetstream.Transport) error {
				src := js.WatchObjects(jetstream.ObjectWatchConfig{Store: jetstream.ObjectStoreConfig{Bucket: args[0], Mode: f.mode()}, Start: start})
				return p.follow(ctx, js, src, f, func(m *transport.Message) error {
					var info jetstream.ObjectInfo
					if err := json.Unmarshal(m.Body, &info); err != nil {
						return err
					}
					info.ModTime = m.Time
					return p.tellObject(objectRowOf(&info))
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f.add(cmd, "object store")
	p.outputFlag(cmd)
	return cmd
}

func (p *program) tellObject(r objectRow) error {
	if p.Format != "" {
		return p.One(r, r.Name, func(io.Writer) error { return nil })
	}
	what := "put"
	switch {
	case r.Deleted:
		what = "delete"
	case r.Link != "":
		what = "link"
	}
	_, err := fmt.Fprintf(p.Out, "%s\t%s\t%d\n", what, ui.Line(r.Name), r.Size)
	return err
}

func (p *program) withObjects(ctx context.Context, f bucketFlags, timeout time.Duration, bucket string, do func(context.Context, *jetstream.ObjectStore) error) error {
	return p.withJetStream(ctx, timeout, func(ctx context.Context, js *jetstream.Transport) error {
		open, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		s, err := jetstream.OpenObjectStore(open, js, jetstream.ObjectStoreConfig{Bucket: bucket, Mode: f.mode()})
		if err != nil {
			return createHint(err)
		}
		return do(ctx, s)
	})
}
