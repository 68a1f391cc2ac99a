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
//
// A delivery that is open for long does not make it grow with all that is settled
// meanwhile: the tags of such are kept apart.
type ackLog struct {
	base   uint64 // the tag of states[0], less one
	states []byte
	unsent int // acks the broker does not know
	most   int // how many states may lie behind an open one; 0 means fewStates

	old  map[uint64]struct{} // open tags that are not above the base
	late []uint64            // those that were, and are acked by us
}

// fewStates is how many states may at least lie behind an open one.
const fewStates = 4096

// set notes what became of a tag. Tags below the base are settled already, or old.
func (l *ackLog) set(tag uint64, state byte) {
	if tag <= l.base {
		l.setOld(tag, state)
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

func (l *ackLog) setOld(tag uint64, state byte) {
	if _, open := l.old[tag]; !open {
		return
	}
	delete(l.old, tag)
	if state == tagDone {
		l.unsent++
		l.late = append(l.late, tag)
	}
}

// flush sends the acks that are due. It stops at the first error, for the channel
// is gone then.
func (l *ackLog) flush(send func(tag uint64, multiple bool) error) error {
	for len(l.late) > 0 {
		if err := send(l.late[0], false); err != nil {
			return err
		}
		l.late = l.late[1:]
		l.unsent--
	}
	settled, last, acks := l.run()
	if acks > 0 && len(l.old) == 0 {
		if err := send(last, acks > 1); err != nil {
			return err
		}
		l.unsent -= acks
		l.drop(settled)
	}
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
	settled, _, _ = l.run()
	l.drop(settled)
	l.age()
	return nil
}

// drop forgets the first states, which are all settled.
func (l *ackLog) drop(n int) {
	if n > 0 {
		l.base += uint64(n)
		l.states = l.states[:copy(l.states, l.states[n:])]
	}
}

// age keeps open tags apart that hold up too many states behind them. Every ack is
// sent by now.
func (l *ackLog) age() {
	most := max(l.most, fewStates)
	if len(l.states) <= most {
		return
	}
	n := len(l.states) - most/2
	for i, state := range l.states[:n] {
		if state != tagOpen {
			continue
		}
		if l.old == nil {
			l.old = map[uint64]struct{}{}
		}
		l.old[l.base+uint64(i)+1] = struct{}{}
	}
	l.drop(n)
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
