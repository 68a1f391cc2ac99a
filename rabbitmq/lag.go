package rabbitmq

import "time"

// lag is a timer that runs while something is under way. It belongs to one
// goroutine.
type lag struct {
	*time.Timer
	runs bool
}

func newLag() lag {
	l := lag{Timer: time.NewTimer(time.Hour)}
	l.Timer.Stop()
	return l
}

// watch starts the timer when there is something to wait for.
func (l *lag) watch(empty bool) {
	if !empty && !l.runs {
		l.runs = true
		l.Reset(overtaken)
	}
}

// passed is for whoever has read from the timer.
func (l *lag) passed() { l.runs = false }

func (l *lag) stop() { l.Timer.Stop() }
