package config

// kind is what a value of the file may be.
type kind int

const (
	object   kind = iota // a mapping with the listed fields
	list                 // a sequence of elem
	mapping              // a mapping of any name to a string
	text                 // a string
	number               // a whole number
	boolean              // true or false
	duration             // 200ms, 1m30s; more than zero
	percent              // 20%, from 0% to 100%
	backoff              // a duration, a list of durations, or {first, max}
	flag                 // an empty mapping: the key alone says it
	table                // a mapping of any name to text, a number, or true or false
	size                 // a number of bytes: 4096, 10GiB
	instant              // a time with its zone
)

// shape describes a value: it drives the reader and the JSON Schema.
type shape struct {
	kind   kind
	doc    string
	fields []field  // of an object, in the order they are documented
	elem   *shape   // of a list
	enum   []string // the words allowed for a text
	form   string   // a regular expression for a text
	forms  string   // the form in words, for people
	min    int      // of a number, and the least length of a list
	max    int      // of a number; 0: no limit
	secret bool     // never shown
	sample string   // an example for people, such as "30s"
	called string   // what an object with a name is, for errors
}

// field is one key of an object.
type field struct {
	name     string
	required bool
	shape    *shape
}

func (s *shape) field(name string) *shape {
	for _, f := range s.fields {
		if f.name == name {
			return f.shape
		}
	}
	return nil
}

func (s *shape) names() []string {
	names := make([]string, 0, len(s.fields))
	for _, f := range s.fields {
		names = append(names, f.name)
	}
	return names
}

const (
	nameForm    = `^[A-Za-z0-9_-]{1,64}$`
	nameWords   = "letters, digits, '-' and '_', at most 64"
	durableForm = `^[^\s.*>/\\]{1,128}$`
	durableWord = "no spaces, '.', '*', '>', '/' or '\\'"
	subjectForm = `^[^\s.]+(\.[^\s.]+)*$`
	subjectWord = "tokens between dots, without spaces; '*' stands for one token, '>' for the rest"
	startForm   = `^(all|new|last|current|last-per-subject|sequence:[1-9][0-9]{0,18}|time:[0-9]{4}-[0-9]{2}-[0-9]{2}T.+)$`
	startWords  = "all, new, last, last-per-subject, current (of a watch), sequence:N, or time:2026-01-31T12:00:00Z"
	pauseForm   = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T.+$`
	pauseWords  = "a time with its zone, 2026-01-31T12:00:00Z"
	orderForm   = `^(key|subject|header:[^\s:]+)$`
	orderWords  = "key, subject, or header:NAME"
	brokerForm  = `^(nats|tls|ws|wss|amqp|amqps)://[^\s]+$`
	brokerWords = "nats://HOST:PORT (or tls://, ws://, wss://), or amqp://HOST:5672/VHOST (or amqps://); several servers of one cluster are separated by commas"
)

// fileShape describes the whole file. It is built anew for each caller, so that
// nobody can change it for another.
func fileShape() *shape {
	return &shape{kind: object, doc: "A file of holdfast run.", fields: []field{
		{name: "broker", shape: &shape{kind: text, form: brokerForm, forms: brokerWords, sample: "nats://127.0.0.1:4222", doc: "The NATS server or RabbitMQ to connect to. Left out: an embedded NATS server with JetStream."}},
		{name: "connection", shape: connectionShape()},
		{name: "listen", shape: &shape{kind: text, form: `^[^\s]*:-?[0-9]{1,5}$`, forms: "HOST:PORT; port 0 takes a free one", sample: "127.0.0.1:4222", doc: "The address of the embedded server, on loopback. Default 127.0.0.1:4222."}},
		{name: "data", shape: &shape{kind: text, form: `^.+$`, forms: "a directory", sample: "./holdfast-data", doc: "The directory of the embedded server's file store, relative to this file. Default ./holdfast-data."}},
		{name: "streams", shape: streamsShape()},
		{name: "buckets", shape: bucketsShape()},
		{name: "object_stores", shape: objectStoresShape()},
		{name: "subscriptions", required: true, shape: &shape{kind: list, min: 1, elem: subscriptionShape(), doc: "What to consume and what to do with it."}},
	}}
}

func connectionShape() *shape {
	file := func(doc string) *shape {
		return &shape{kind: text, form: `^.+$`, forms: "a file", sample: "./app.creds", doc: doc + " Relative to this file; read anew for every connection."}
	}
	return &shape{kind: object, doc: "How to connect to a NATS broker, beside its URL.", fields: []field{
		{name: "context", shape: &shape{kind: text, form: `^[^\s/\\]+$`, forms: "a name", sample: "prod", doc: "A context of the nats program whose login and certificates are used."}},
		{name: "creds", shape: file("A credentials file, with a JWT and its seed.")},
		{name: "nkey", shape: file("A file with an nkey seed.")},
		{name: "ca", shape: file("The authorities that the server's certificate is checked with.")},
		{name: "cert", shape: file("The client certificate.")},
		{name: "key", shape: file("The key of the client certificate.")},
		{name: "tls_first", shape: &shape{kind: boolean, sample: "true", doc: "Make the TLS handshake before the server greets. Default false."}},
		{name: "inbox_prefix", shape: &shape{kind: text, form: subjectForm, forms: subjectWord, sample: "_MINE", doc: "What replies come to, in place of _INBOX."}},
	}}
}

func subscriptionShape() *shape {
	return &shape{kind: object, called: "subscription", doc: "One source with its handler and policy.", fields: []field{
		{name: "name", required: true, shape: &shape{kind: text, form: nameForm, forms: nameWords, sample: "orders", doc: "The name of the subscription, in logs and dead letters. Unique in the file."}},
		{name: "from", required: true, shape: fromShape()},
		{name: "handler", required: true, shape: handlerShape()},
		{name: "concurrency", shape: &shape{kind: number, min: 1, max: 10000, sample: "8", doc: "How many messages are handled at once. Default 1."}},
		{name: "prefetch", shape: &shape{kind: number, min: 1, max: 100000, sample: "16", doc: "How many messages may wait in the process beyond those being handled. Not on core NATS."}},
		{name: "timeout", shape: &shape{kind: duration, sample: "30s", doc: "How long the handler may take for one message; longer is a failed attempt. Default none for log, 30s for exec and http."}},
		{name: "retry", shape: retryShape()},
		{name: "dead_letter", shape: &shape{kind: boolean, sample: "true", doc: "Whether a message that failed for good is kept as a dead letter. Default true on JetStream and RabbitMQ; refused on core NATS."}},
		{name: "max_age", shape: &shape{kind: duration, sample: "24h", doc: "Messages older than this are not handled but dead-lettered as expired. Not on core NATS."}},
		{name: "order_by", shape: &shape{kind: text, form: orderForm, forms: orderWords, sample: "key", doc: "Messages with the same key, subject or header value are handled in sequence, others in parallel."}},
	}}
}

func fromShape() *shape {
	return &shape{kind: object, doc: "The source: {stream, ...} on JetStream, {kv, ...} or {object, ...} for the changes of a bucket or an object store there, {subject, group} on core NATS, or {queue, ...} on RabbitMQ.", fields: append([]field{
		{name: "stream", shape: &shape{kind: text, form: durableForm, forms: durableWord, sample: "ORDERS", doc: "The JetStream stream. It is created when it is missing and the mode allows it."}},
		{name: "subjects", shape: &shape{kind: list, min: 1, elem: subjectShape(), doc: "The subjects to consume; also those of a stream that is created. Left out: all of the stream."}},
		{name: "kv", shape: &shape{kind: text, form: nameForm, forms: nameWords, sample: "prices", doc: "The key-value bucket whose changes are handled. It is created when it is missing and the mode allows it."}},
		{name: "keys", shape: &shape{kind: list, min: 1, elem: keyShape(), doc: "The keys of the bucket to watch. Left out: all."}},
		{name: "object", shape: &shape{kind: text, form: nameForm, forms: nameWords, sample: "files", doc: "The object store whose changes are handled: the body is what is known of the object, as JSON."}},
		{name: "durable", shape: &shape{kind: text, form: durableForm, forms: durableWord, sample: "orders", doc: "The durable consumer. Default: the name of the subscription."}},
		{name: "start", shape: &shape{kind: text, form: startForm, forms: startWords, sample: "all", doc: "Where a new consumer starts. An existing one goes on where it stood. A watch takes new, current (the last revision of each key) or all (with history)."}},
		{name: "ordered", shape: &shape{kind: boolean, sample: "true", doc: "Read the stream in order and without acks, from start with every start of the program: for replays and read models. It has no durable, no dead letters, and one handler at a time, or order_by."}},
		{name: "replay", shape: &shape{kind: text, enum: []string{"instant", "original"}, sample: "original", doc: "instant (default): as fast as messages are handled. original: with the pauses they were stored with."}},
		{name: "pause", shape: &shape{kind: text, form: pauseForm, forms: pauseWords, sample: "2026-01-31T12:00:00Z", doc: "A consumer that is made hands out nothing before this time. One that is there is left as it is. It needs nats-server 2.11."}},
		{name: "consumer", shape: consumerShape()},
		{name: "mode", shape: &shape{kind: text, enum: []string{"verify", "ensure", "update"}, sample: "ensure", doc: "verify: create nothing. ensure (default): create what is missing. update: also change what differs."}},
		{name: "subject", shape: subjectShape()},
		{name: "group", shape: &shape{kind: text, form: `^\S+$`, forms: "no spaces", sample: "workers", doc: "The queue group on core NATS: each message goes to one member."}},
	}, queueFields()...)}
}

func subjectShape() *shape {
	return &shape{kind: text, form: subjectForm, forms: subjectWord, sample: "orders.>", doc: "A subject, wildcards allowed."}
}

func keyShape() *shape {
	return &shape{kind: text, form: `^[-/_=.a-zA-Z0-9*]*>?$`, forms: "letters, digits and - / _ = . ; '*' stands for one token, '>' for the rest", sample: "orders.*", doc: "A key, wildcards allowed."}
}

func handlerShape() *shape {
	return &shape{kind: object, doc: "Exactly one of exec, http and log.", fields: []field{
		{name: "exec", shape: &shape{kind: list, min: 1, elem: &shape{kind: text, sample: "./handle.sh"}, doc: "A command and its arguments, run once per message in the directory of this file. Exit 0 acks, 75 retries, 65 is permanent, others retry."}},
		{name: "http", shape: &shape{kind: object, doc: "A URL that each message is posted to.", fields: []field{
			{name: "url", required: true, shape: &shape{kind: text, form: `^https?://[^\s/]+\S*$`, forms: "http://HOST/PATH or https://HOST/PATH", sample: "http://127.0.0.1:9000/orders", doc: "Where each message is posted to."}},
			{name: "secret", shape: &shape{kind: text, secret: true, sample: "${ORDERS_SECRET}", doc: "Signs requests by the Standard Webhooks scheme: base64, with or without the prefix whsec_."}},
			{name: "timeout", shape: &shape{kind: duration, sample: "10s", doc: "How long one request may take. Default: the timeout of the subscription."}},
			{name: "headers", shape: &shape{kind: mapping, secret: true, doc: "Headers added to each request."}},
		}}},
		{name: "log", shape: &shape{kind: flag, sample: "{}", doc: "Writes one line per message and acks it."}},
	}}
}

func retryShape() *shape {
	return &shape{kind: object, doc: "What happens to a message whose handler failed. Not on core NATS.", fields: []field{
		{name: "attempts", shape: &shape{kind: number, min: 1, max: 100000, sample: "5", doc: "How often the handler runs at most for one message, immediate retries included. Default 5, or no limit in number when within is set."}},
		{name: "immediate", shape: &shape{kind: number, min: 0, max: 1000, sample: "1", doc: "How many of the retries follow at once, in process. Fewer than attempts."}},
		{name: "backoff", shape: &shape{kind: backoff, sample: "[200ms, 1s, 5s]", doc: "The delays between the other retries: a list whose last entry repeats, one duration, or {first, max}, which doubles. Default {first: 1s, max: 1m}."}},
		{name: "jitter", shape: &shape{kind: percent, sample: "20%", doc: "Lengthens each delay by up to this share of it."}},
		{name: "within", shape: &shape{kind: duration, sample: "1h", doc: "No retry begins later than this after the first attempt. Default no limit."}},
	}}
}

// growthShape is the mapping form of a backoff.
func growthShape() *shape {
	return &shape{kind: object, doc: "Doubles from first up to max.", fields: []field{
		{name: "first", required: true, shape: &shape{kind: duration, sample: "1s", doc: "The first delay."}},
		{name: "max", required: true, shape: &shape{kind: duration, sample: "1m", doc: "The longest delay."}},
	}}
}
