package rabbitmq

// What became of a delivery tag.
const (
	tagOpen = iota // handed out, or not yet
	tagDone        // acked by us, the broker does not know yet
	tagGone        // the broker knows
)

// ackLog knows what became of the delivery tags of one channel, which count up
// from one. It gathers acks: a run of tags that are all settled is acked with one
// call for all, and never one that covers a delivery that is not done. Its owner
// guards it with a lock of its own.
type ackLog struct {
	base   uint64 // the tag of states[0], less one
	states []byte
	unsent int // acks the broker does not know
}

// set notes what became of a tag. Tags below the base are settled already.
func (l *ackLog) set(tag uint64, state byte) {
	if tag <= l.base {
		return
	}
	i := int(tag - l.base - 1)
	for len(l.states) <= i {
		l.states = append(l.states, tagOpen)
	}
	if l.states[i] == tagDone {
		l.unsent--
	}
	if state == tagDone {
		l.unsent++
	}
	l.states[i] = state
}

// flush sends the acks that are due. It stops at the first error, for the channel
// is gone then.
func (l *ackLog) flush(send func(tag uint64, multiple bool) error) error {
	settled, last, acks := l.run()
	if acks > 0 {
		if err := send(last, acks > 1); err != nil {
			return err
		}
		l.unsent -= acks
	}
	l.base += uint64(settled)
	l.states = l.states[:copy(l.states, l.states[settled:])]
	for i, state := range l.states {
		if l.unsent == 0 {
			break
		}
		if state != tagDone {
			continue
		}
		if err := send(l.base+uint64(i)+1, false); err != nil {
			return err
		}
		l.states[i] = tagGone
		l.unsent--
	}
	return nil
}

// run measures the settled tags at the beginning: how many, the last of them
// that is to be acked, and how many are.
func (l *ackLog) run() (settled int, last uint64, acks int) {
	for _, state := range l.states {
		if state == tagOpen {
			break
		}
		settled++
		if state == tagDone {
			acks++
			last = l.base + uint64(settled)
		}
	}
	return settled, last, acks
}
