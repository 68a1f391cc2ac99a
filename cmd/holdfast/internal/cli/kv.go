package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// watchOf is the source of a file that watches a bucket or an object store, nil
// for one that does not.
func watchOf(js *jetstream.Transport, c *config.Config, f config.From) holdfast.Source {
	switch {
	case f.KV != "":
		bucket := jetstream.BucketConfig{Bucket: f.KV, Mode: modeOf(f.Mode)}
		if said, ok := c.Buckets[f.KV]; ok {
			bucket.Config = &said
		}
		return js.WatchKV(jetstream.WatchConfig{
			Bucket: bucket, Keys: f.Keys, Durable: f.Durable, Start: startOf(f.Start),
			AckWait: f.Consumer.AckWait, MaxAckPending: f.Consumer.MaxAckPending,
		})
	case f.Object != "":
		store := jetstream.ObjectStoreConfig{Bucket: f.Object, Mode: modeOf(f.Mode)}
		if said, ok := c.ObjectStores[f.Object]; ok {
			store.Config = &said
		}
		return js.WatchObjects(jetstream.ObjectWatchConfig{
			Store: store, Durable: f.Durable, Start: startOf(f.Start),
			AckWait: f.Consumer.AckWait, MaxAckPending: f.Consumer.MaxAckPending,
		})
	}
	return nil
}

// bucketFlags are what the commands on buckets and object stores share.
type bucketFlags struct {
	create  bool
	timeout time.Duration
}

func (f *bucketFlags) add(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVar(&f.create, "create", false, "make the "+what+" when it is missing")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to try")
}

func (f *bucketFlags) mode() jetstream.Mode {
	if f.create {
		return jetstream.ModeEnsure
	}
	return jetstream.ModeVerify
}

// createHint says what the commands can do about what is missing.
func createHint(err error) error {
	te, ok := errors.AsType[*transport.Error](err)
	if ok && (te.Op == "open" || te.Op == "provision") && errors.Is(err, transport.ErrNotFound) {
		return ui.Exit(ui.ExitNothing, &transport.Error{Op: te.Op, Address: te.Address, Err: transport.ErrNotFound, Hint: "correct its name, or make it with --create"})
	}
	return brokerError(err)
}

func (p *program) kvCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "kv", Short: "Look into key-value buckets, write to them, watch them",
		Example: `  holdfast kv ls                          the buckets
  holdfast kv ls prices                   the keys of one
  holdfast kv put prices tea.green '{"cents": 250}' --create
  holdfast kv get prices tea.green
  holdfast kv watch prices 'tea.*'        what changes, until Ctrl-C`,
	})
	cmd.AddCommand(p.kvList(), p.kvGet(), p.kvPut(), p.kvWatch())
	return cmd
}

// bucketRow is a bucket or an object store as ls prints it.
type bucketRow struct {
	Bucket   string `json:"bucket"`
	Values   uint64 `json:"values,omitempty"` // of a bucket, its history included
	Bytes    uint64 `json:"bytes"`
	History  int64  `json:"history,omitempty"`
	TTL      string `json:"ttl,omitempty"`
	Replicas int    `json:"replicas"`
}

func (p *program) kvList() *cobra.Command {
	f := bucketFlags{}
	cmd := &cobra.Command{
		Use: "ls [BUCKET [PATTERN]]", Aliases: []string{"list"}, Short: "List buckets, or the keys of one",
		Args: args(0, 2, "at most a bucket and a pattern of keys"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return p.withJetStream(cmd.Context(), f.timeout, p.listBuckets)
			}
			// Keys come as they are read: a large bucket takes its time.
			return p.withJetStream(cmd.Context(), 0, func(ctx context.Context, js *jetstream.Transport) error {
				return p.listKeys(ctx, js, f, args[0], args[1:])
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f.add(cmd, "bucket")
	p.outputFlag(cmd)
	return cmd
}

func (p *program) listBuckets(ctx context.Context, js *jetstream.Transport) error {
	var rows []bucketRow
	all := js.JetStream().KeyValueStores(ctx)
	for s := range all.Status() {
		c := s.Config()
		row := bucketRow{Bucket: s.Bucket(), Values: s.Values(), Bytes: s.Bytes(), History: s.History(), Replicas: c.Replicas}
		if s.TTL() > 0 {
			row.TTL = s.TTL().String()
		}
		rows = append(rows, row)
	}
	if err := all.Error(); err != nil {
		return brokerError(err)
	}
	if len(rows) == 0 {
		p.Sayf("no buckets")
	}
	return ui.List(p.UI, rows, func(r bucketRow) string { return r.Bucket },
		ui.Column[bucketRow]{Name: "bucket", Whole: true, Value: func(r bucketRow) string { return r.Bucket }},
		ui.Column[bucketRow]{Name: "values", Value: func(r bucketRow) string { return strconv.FormatUint(r.Values, 10) }},
		ui.Column[bucketRow]{Name: "bytes", Value: func(r bucketRow) string { return strconv.FormatUint(r.Bytes, 10) }},
		ui.Column[bucketRow]{Name: "history", Value: func(r bucketRow) string { return strconv.FormatInt(r.History, 10) }},
		ui.Column[bucketRow]{Name: "ttl", Value: func(r bucketRow) string { return r.TTL }},
		ui.Column[bucketRow]{Name: "replicas", Value: func(r bucketRow) string { return strconv.Itoa(r.Replicas) }},
	)
}

func (p *program) listKeys(ctx context.Context, js *jetstream.Transport, f bucketFlags, bucket string, patterns []string) error {
	kv, err := jetstream.OpenKV[[]byte](ctx, js, jetstream.BucketConfig{Bucket: bucket, Mode: f.mode()})
	if err != nil {
		return createHint(err)
	}
	switch p.Format {
	case "", "name", "jsonl":
		return p.streamKeys(kv.Keys(ctx, patterns...))
	}
	type row struct {
		Key string `json:"key"`
	}
	var rows []row
	for k, err := range kv.Keys(ctx, patterns...) {
		if err != nil {
			return brokerError(err)
		}
		rows = append(rows, row{k})
	}
	return ui.List(p.UI, rows, func(r row) string { return r.Key }, ui.Column[row]{Name: "key", Whole: true, Value: func(r row) string { return r.Key }})
}

// streamKeys prints one key a line as it comes.
func (p *program) streamKeys(keys func(func(string, error) bool)) error {
	n := 0
	for k, err := range keys {
		if err != nil {
			return brokerError(err)
		}
		if p.Format == "jsonl" {
			err = ui.JSONLine(p.Out, map[string]string{"key": k})
		} else {
			_, err = fmt.Fprintln(p.Out, ui.Line(k))
		}
		if err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		p.Sayf("no keys match")
	}
	return nil
}

// entryRow is a revision as get, put and watch print it.
type entryRow struct {
	Bucket    string    `json:"bucket"`
	Key       string    `json:"key"`
	Revision  uint64    `json:"revision"`
	Operation string    `json:"operation"`
	Expired   bool      `json:"expired,omitempty"`
	Time      time.Time `json:"time"`
	// Value is set when it is text, ValueBase64 otherwise.
	Value       string `json:"value,omitempty"`
	ValueBase64 []byte `json:"value_base64,omitempty"`
}

func rowOf(e jetstream.Entry[[]byte]) entryRow {
	r := entryRow{Bucket: e.Bucket, Key: e.Key, Revision: e.Revision, Operation: e.Operation.String(), Expired: e.Expired, Time: e.Time}
	if utf8.Valid(e.Value) {
		r.Value = string(e.Value)
	} else {
		r.ValueBase64 = e.Value
	}
	return r
}

func (p *program) kvGet() *cobra.Command {
	f := bucketFlags{}
	var revision uint64
	cmd := &cobra.Command{
		Use: "get BUCKET KEY", Short: "Write the value of a key, byte for byte",
		Example: `  holdfast kv get prices tea.green
  holdfast kv get prices tea.green -o json      with its revision and its time`,
		Args: args(2, 2, "a bucket and a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withKV(cmd.Context(), f, args[0], func(ctx context.Context, kv *jetstream.KV[[]byte]) error {
				e, err := getEntry(ctx, kv, args[1], revision)
				if err != nil {
					return brokerError(err)
				}
				return p.One(rowOf(e), e.Key, func(io.Writer) error { return p.raw(e.Value) })
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().Uint64Var(&revision, "revision", 0, "this revision in place of the last one")
	f.add(cmd, "bucket")
	p.outputFlag(cmd)
	return cmd
}

func getEntry(ctx context.Context, kv *jetstream.KV[[]byte], key string, revision uint64) (jetstream.Entry[[]byte], error) {
	if revision > 0 {
		return kv.GetRevision(ctx, key, revision)
	}
	return kv.Get(ctx, key)
}

// kvPutFlags are the flags of kv put.
type kvPutFlags struct {
	bucketFlags
	file     string
	revision int64
	ttl      time.Duration
}

func (p *program) kvPut() *cobra.Command {
	f := kvPutFlags{}
	cmd := &cobra.Command{
		Use: "put BUCKET KEY [VALUE|-]", Short: "Store a value and print its revision",
		Example: `  holdfast kv put prices tea.green '{"cents": 250}' --create
  holdfast kv put prices tea.green --if-revision 7 - < price.json
  holdfast kv put locks job-1 me --if-revision 0       only if there is none`,
		Args: args(2, 3, "a bucket, a key and at most one value"),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := p.body(args[2:], f.file)
			if err != nil {
				return err
			}
			return p.withKV(cmd.Context(), f.bucketFlags, args[0], func(ctx context.Context, kv *jetstream.KV[[]byte]) error {
				rev, err := putEntry(ctx, kv, args[1], value, f)
				if err != nil {
					return brokerError(err)
				}
				row := entryRow{Bucket: kv.Bucket(), Key: args[1], Revision: rev, Operation: "put", Time: time.Now().UTC()}
				return p.One(row, args[1], func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "stored %s  revision %d  %s\n", ui.Line(args[1]), rev, plural(len(value), "byte"))
					return err
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "read the value from this file")
	cmd.Flags().Int64Var(&f.revision, "if-revision", -1, "store it only if the key is at this revision; 0: only if it does not exist")
	cmd.Flags().DurationVar(&f.ttl, "ttl", 0, "let the server remove the value after this time; the bucket must allow it")
	f.add(cmd, "bucket")
	p.outputFlag(cmd)
	return cmd
}

func putEntry(ctx context.Context, kv *jetstream.KV[[]byte], key string, value []byte, f kvPutFlags) (uint64, error) {
	var opts []jetstream.PutOption
	if f.ttl != 0 {
		opts = append(opts, jetstream.KeyTTL(f.ttl))
	}
	switch {
	case f.revision == 0:
		return kv.Create(ctx, key, value, opts...)
	case f.revision > 0:
		return kv.Update(ctx, key, value, uint64(f.revision), opts...)
	default:
		return kv.Put(ctx, key, value, opts...)
	}
}

// watchFlags are the flags of kv watch and object watch.
type watchFlags struct {
	bucketFlags
	start string
	count int
}

func (f *watchFlags) add(cmd *cobra.Command, what string) {
	cmd.Flags().StringVar(&f.start, "start", "current", "where to begin: current (with what is there), new, or all (with history)")
	cmd.Flags().IntVar(&f.count, "count", 0, "end after so many changes")
	cmd.Flags().BoolVar(&f.create, "create", false, "make the "+what+" when it is missing")
	must(cmd.RegisterFlagCompletionFunc("start", cobra.FixedCompletions([]string{"current", "new", "all"}, cobra.ShellCompDirectiveNoFileComp)))
}

func (f *watchFlags) policy() (jetstream.StartPolicy, error) {
	switch f.start {
	case "current":
		return jetstream.StartLastPerSubject(), nil
	case "new":
		return jetstream.StartNew(), nil
	case "all":
		return jetstream.StartAll(), nil
	}
	return jetstream.StartPolicy{}, ui.Usagef("--start %q: write current, new or all", f.start)
}

func (p *program) kvWatch() *cobra.Command {
	f := watchFlags{}
	cmd := &cobra.Command{
		Use: "watch BUCKET [PATTERN]", Short: "Print what changes in a bucket, until Ctrl-C",
		Example: `  holdfast kv watch prices
  holdfast kv watch prices 'tea.*' --start new -o jsonl`,
		Args: args(1, 2, "a bucket and at most one pattern of keys"),
		RunE: func(cmd *cobra.Command, args []string) error {
			start, err := f.policy()
			if err != nil {
				return err
			}
			return p.withJetStream(cmd.Context(), 0, func(ctx context.Context, js *jetstream.Transport) error {
				src := js.WatchKV(jetstream.WatchConfig{
					Bucket: jetstream.BucketConfig{Bucket: args[0], Mode: f.mode()}, Keys: args[1:], Start: start,
				})
				return p.follow(ctx, js, src, f, func(m *transport.Message) error {
					var e jetstream.Entry[[]byte]
					decode, err := e.Fill(m)
					if decode {
						e.Value = m.Body
					}
					return errors.Join(err, p.tellEntry(e))
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f.add(cmd, "bucket")
	p.outputFlag(cmd)
	return cmd
}

func (p *program) tellEntry(e jetstream.Entry[[]byte]) error {
	row := rowOf(e)
	switch p.Format {
	case "":
		text := ui.Line(row.Value)
		if row.ValueBase64 != nil {
			text = plural(len(e.Value), "byte")
		}
		if row.Expired {
			text = "expired"
		}
		_, err := fmt.Fprintf(p.Out, "%d\t%s\t%s\t%s\n", row.Revision, row.Operation, ui.Line(row.Key), text)
		return err
	default:
		return p.One(row, row.Key, func(io.Writer) error { return nil })
	}
}

// follow prints what a watch receives until the context ends or enough has come.
// How much is still to come is told on the way.
func (p *program) follow(ctx context.Context, js *jetstream.Transport, src holdfast.Source, f watchFlags, tell func(*transport.Message) error) (err error) {
	want := transport.Want{Subscription: "watch", Concurrency: 1, Prefetch: 255, Redelivery: true}
	if _, err := js.Provision(ctx, src, want); err != nil {
		return createHint(err)
	}
	rx, err := js.Open(ctx, src, want)
	if err != nil {
		return brokerError(err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, rx.Close(end))
	}()
	stop := js.Observe(p.watchNews)
	defer stop()
	told := time.Now()
	for n := 1; ; n++ {
		d, err := rx.Receive(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return brokerError(err)
		}
		if err := tell(d.Message()); err != nil {
			return err
		}
		if err := d.(transport.PipelinedAcker).AckLater(); err != nil {
			return brokerError(err)
		}
		if n == f.count {
			return nil
		}
		if time.Since(told) > time.Second {
			told = time.Now()
			if left, ok := jetstream.PendingOf(rawOf{d}); ok && left > 0 {
				p.Sayf("%d so far, %d to come", n, left)
			}
		}
	}
}

// watchNews tells on stderr what a watch ought to know.
func (p *program) watchNews(e transport.Event) {
	switch e.Kind {
	case transport.Compacted:
		p.Warnf("%s", ui.Clean(e.Detail))
	case transport.Disconnected, transport.Reconnected:
		p.Sayf("%s", e.Kind)
	}
}

// rawOf gives the client library's own message of a delivery.
type rawOf struct{ d transport.Delivery }

// Raw returns it, or nil.
func (r rawOf) Raw() any {
	if n, ok := r.d.(transport.Native); ok {
		return n.Native()
	}
	return (*nats.Msg)(nil)
}

func (p *program) withKV(ctx context.Context, f bucketFlags, bucket string, do func(context.Context, *jetstream.KV[[]byte]) error) error {
	return p.withJetStream(ctx, f.timeout, func(ctx context.Context, js *jetstream.Transport) error {
		kv, err := jetstream.OpenKV[[]byte](ctx, js, jetstream.BucketConfig{Bucket: bucket, Mode: f.mode()})
		if err != nil {
			return createHint(err)
		}
		return do(ctx, kv)
	})
}

// withJetStream runs do on a connection, within timeout unless that is 0.
func (p *program) withJetStream(ctx context.Context, timeout time.Duration, do func(context.Context, *jetstream.Transport) error) (err error) {
	url, err := p.anyBroker()
	if err != nil {
		return err
	}
	d := p.dialer(url)
	if d.rabbit() {
		return ui.Usagef("buckets and object stores are of NATS JetStream, and the broker is RabbitMQ; name a broker with --broker nats://HOST:PORT")
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	js, err := d.jetStream(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, js), d.close())
}
