package transport

// Code is the stable name of a finding. Codes are never reused.
type Code string

// Findings about what a broker can do at all.
const (
	CodeNoRedelivery   Code = "HF1001" // retry asked of a broker without redelivery
	CodeNoDeadLetters  Code = "HF1002" // dead letters asked of a broker without a store
	CodeNoReject       Code = "HF1003" // reject asked of a broker without a terminal
	CodeNoDurable      Code = "HF1004" // durability asked of a broker without storage
	CodeCaptured       Code = "HF1005" // a core NATS subject is captured by a stream
	CodeNoReply        Code = "HF1006" // replies asked of a broker without requests
	CodeNoPrefix       Code = "HF1007" // a group prefix on a source that has no addresses to put it before
	CodeRejectDestroys Code = "HF1008" // rejecting would destroy the message
	CodeServerTooOld   Code = "HF1009" // the connected server cannot do what was asked
	CodeNoRequeue      Code = "HF1010" // retries by the broker asked of one that does not bound them
)

// Findings about a consumer.
const (
	CodeNoStart          Code = "HF1101" // a new or ephemeral consumer without a start position
	CodeConsumerMissing  Code = "HF1102" // the consumer is not there, in verify mode
	CodeMaxDeliver       Code = "HF1103" // MaxDeliver ends retries before the policy does
	CodeBackOff          Code = "HF1104" // BackOff adds to the policy's delays
	CodeAckWait          Code = "HF1105" // AckWait is too short for the lease to be kept up
	CodeMaxAckPending    Code = "HF1106" // MaxAckPending is smaller than what is handled at once
	CodeAckPolicy        Code = "HF1107" // the consumer does not use explicit acks
	CodeConsumerDrift    Code = "HF1108" // the consumer differs from what the program asks for
	CodeInactive         Code = "HF1109" // a durable with InactiveThreshold is deleted when idle
	CodeSharedDurable    Code = "HF1110" // two subscriptions share one durable with different filters
	CodeFilterOutside    Code = "HF1111" // a filter matches nothing that the stream stores
	CodeConsumerCreated  Code = "HF1112" // the consumer will be created
	CodeMemoryConsumer   Code = "HF1113" // the consumer's state is kept in memory and lost with the server
	CodePushConsumer     Code = "HF1114" // the durable is a push consumer
	CodeConsumerPaused   Code = "HF1115" // the consumer is paused
	CodeStrandedMessages Code = "HF1116" // messages were left behind by a delivery limit
	CodeHeadersOnly      Code = "HF1117" // dead letters of a consumer of headers only would have no body
)

// Findings about a stream.
const (
	CodeStreamMissing   Code = "HF1201" // the stream is not there, in verify mode
	CodeStreamDrift     Code = "HF1202" // the stream differs from what the program asks for
	CodeDiscardOld      Code = "HF1203" // a work stream discards old messages
	CodeFieldsDropped   Code = "HF1204" // the server dropped settings in silence
	CodeNoAckStream     Code = "HF1205" // the stream does not confirm publishes
	CodeInterest        Code = "HF1206" // an interest stream stores nothing while nobody consumes
	CodeSubjectsOverlap Code = "HF1207" // the subjects belong to another stream
	CodeStreamCreated   Code = "HF1208" // the stream will be created
	CodeNotSynced       Code = "HF1209" // a confirm of this stream does not survive a power loss
	CodeExpires         Code = "HF1210" // the stream's age limit removes messages that wait for their turn

	CodeTakesSchedules Code = "HF1211" // the subscription takes messages that wait to be sent later
)

// Findings about dead letters.
const (
	CodeDeadMissing   Code = "HF1301" // the dead-letter stream is not there, in verify mode
	CodeDeadRetention Code = "HF1302" // the dead-letter stream has work-queue or interest retention
	CodeDeadSize      Code = "HF1303" // the dead-letter stream is too small for the source's messages
	CodeDeadCaptures  Code = "HF1304" // the dead-letter stream captures the source's subjects
	CodeDeadExpires   Code = "HF1305" // the dead-letter stream throws dead letters away
	CodeRedriveStream Code = "HF1306" // the redrive stream is missing or cannot serve
	CodeDeadCreated   Code = "HF1307" // the dead-letter store will be created
)

// Findings about the stream in which messages wait for long.
const (
	CodeParkStream  Code = "HF1801" // the park stream or its consumer is missing, or cannot serve
	CodeParkWeaker  Code = "HF1802" // the park stream is kept less safely than the source
	CodeParkCreated Code = "HF1803" // the park stream will be created
)

// Findings about access and settings.
const (
	CodePermission    Code = "HF1401" // a permission is missing
	CodeUnreachable   Code = "HF1402" // the broker does not answer
	CodeNoJetStream   Code = "HF1403" // the server or account has no JetStream
	CodePermissions   Code = "HF1404" // what the account of a subscription must be allowed
	CodeInvalid       Code = "HF1501" // a setting can never work
	CodeDuplicateName Code = "HF1502" // two subscriptions have one name
	CodeOrdered       Code = "HF1503" // the order asked for cannot be kept
	CodeDerivedID     Code = "HF1504" // messages without an ID are counted under one made from their content
	CodeCounterDown   Code = "HF1505" // the store that counts attempts does not answer
)

// Findings about a queue and what belongs to it.
const (
	CodeQueueMissing    Code = "HF1601" // the queue is not there, and may not be declared
	CodeQueueDrift      Code = "HF1602" // the queue differs from what the program asks for
	CodeQueueCreated    Code = "HF1603" // the queue or exchange will be declared
	CodeExchangeMissing Code = "HF1604" // the exchange is not there, and may not be declared
	CodeExchangeDrift   Code = "HF1605" // the exchange differs from what the program asks for
	CodeRetryMissing    Code = "HF1606" // a retry queue is not there, in verify mode
	CodeNoNet           Code = "HF1607" // an adopted queue's net cannot be seen
	CodeNoCount         Code = "HF1608" // a classic queue counts no deliveries
	CodeDeliveryLimit   Code = "HF1609" // the delivery limit is below what retries and restarts need
	CodeDLXMissing      Code = "HF1610" // the dead-letter exchange is not there
	CodeQueueLoses      Code = "HF1611" // an argument of the queue removes messages that wait
	CodeAtMostOnce      Code = "HF1612" // dead-lettering at least once needs reject-publish
	CodeBrokerRetries   Code = "HF1613" // the queue does not bound retries as the program asks for
	CodeDLXNowhere      Code = "HF1614" // the dead-letter exchange routes nowhere
	CodeConsumerTimeout Code = "HF1615" // the broker takes a delivery back before the program is done with it
	CodeBindingsUnseen  Code = "HF1616" // bindings are given that are neither made nor can be seen
)

// Findings about a key-value bucket or an object store.
const (
	CodeNotABucket     Code = "HF1701" // the stream of that name is not that of a bucket
	CodeUnorderedWatch Code = "HF1702" // retries of a watch may come after newer revisions of their key
)
