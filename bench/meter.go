package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"
	"time"
)

// tick is the unit of CPU times in /proc, which Linux has fixed at 1/100 s.
const tick = 10 * time.Millisecond

// snapshot is everything that is counted, at one moment.
type snapshot struct {
	at      time.Time
	own     time.Duration // CPU of this process
	server  time.Duration // CPU of the server's process
	busy    time.Duration // CPU of the whole machine
	total   time.Duration // CPU the machine could have used; zero where unknown
	mallocs uint64
	bytes   uint64
}

// look takes a snapshot. The clock is read last at the start of a measurement
// and first at its end, so that looking is not part of it.
func look(serverPID int, starting bool) snapshot {
	s := snapshot{at: time.Now(), own: ownCPU()}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.mallocs, s.bytes = m.Mallocs, m.TotalAlloc
	s.busy, s.total = machineCPU()
	s.server = processCPU(serverPID)
	if starting {
		s.own, s.at = ownCPU(), time.Now()
	}
	return s
}

// sample is what one trial measured.
type sample struct {
	msgs    float64
	wall    time.Duration
	own     time.Duration
	server  time.Duration
	mallocs uint64
	bytes   uint64
	others  float64 // share of the machine's CPU used by other processes; -1 unknown
	p50     time.Duration
	p99     time.Duration
	heap    uint64 // the most the heap took, in bytes
}

// since returns the difference of two snapshots.
func (s snapshot) since(start snapshot, msgs float64) sample {
	d := sample{
		msgs: msgs, wall: s.at.Sub(start.at), own: s.own - start.own, server: s.server - start.server,
		mallocs: s.mallocs - start.mallocs, bytes: s.bytes - start.bytes, others: -1,
	}
	// A few ticks say nothing.
	if total := s.total - start.total; total >= 20*tick {
		others := s.busy - start.busy - d.own - d.server
		d.others = max(0, float64(others)/float64(total))
	}
	return d
}

func (d sample) rate() float64   { return d.msgs / d.wall.Seconds() }
func (d sample) nanos() float64  { return float64(d.wall) / d.msgs }
func (d sample) cpu() float64    { return float64(d.own) / d.msgs / 1e3 }
func (d sample) srvCPU() float64 { return float64(d.server) / d.msgs / 1e3 }
func (d sample) allocs() float64 { return float64(d.mallocs) / d.msgs }
func (d sample) size() float64   { return float64(d.bytes) / d.msgs }

// machineCPU reads what all CPUs together have done; zeros where /proc is not.
// Time stolen by the hypervisor counts as used: by somebody else.
func machineCPU() (busy, total time.Duration) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	for i, f := range bytes.Fields(line)[1:] {
		if i > 7 { // guest time is part of user time
			break
		}
		n, _ := strconv.ParseInt(string(f), 10, 64)
		d := time.Duration(n) * tick
		total += d
		if i != 3 && i != 4 { // idle and waiting for a disk
			busy += d
		}
	}
	return busy, total
}

// processCPU reads the CPU time of another process; zero where /proc is not.
func processCPU(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may hold spaces.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	sys, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+sys) * tick
}

// heapWatch samples the heap until it is told to stop.
type heapWatch struct {
	end  chan struct{}
	wg   sync.WaitGroup
	most uint64
}

// watchHeap starts sampling every 5 ms: spans in use, holes in them included.
func watchHeap() *heapWatch {
	w := &heapWatch{end: make(chan struct{})}
	w.wg.Go(func() {
		t := time.NewTicker(5 * time.Millisecond)
		defer t.Stop()
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
		for {
			metrics.Read(s)
			w.most = max(w.most, s[0].Value.Uint64()+s[1].Value.Uint64())
			select {
			case <-w.end:
				return
			case <-t.C:
			}
		}
	})
	return w
}

// stop returns the most that was seen.
func (w *heapWatch) stop() uint64 {
	close(w.end)
	w.wg.Wait()
	return w.most
}
