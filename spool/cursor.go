package spool

import (
	"slices"
	"time"
)

// cursor reads what is pending, in order, in the goroutine of its caller.
type cursor struct {
	j    *journal
	seg  *segment
	file File
	scan *scanner
	// damaged is told of what cannot be read and was not known.
	damaged func(first uint64, g gap) Damage
}

// next returns the next pending record, or a channel to wait on when there is
// none. The data is valid until the next call.
func (c *cursor) next() (found, <-chan struct{}, error) {
	for {
		grown, end, last, err := c.position()
		if err != nil || grown != nil {
			return found{}, grown, err
		}
		c.scan.end, c.scan.below = end, last+1
		r, g, ok, err := c.scan.next()
		if err != nil {
			return found{}, nil, err
		}
		if !ok && g.end > g.off && last > c.scan.last {
			g.records = last - c.scan.last
		}
		if g.end > g.off {
			c.skip(g, r, ok)
		}
		if ok && c.wanted(r.seq) {
			return r, nil, nil
		}
	}
}

// position moves to a segment that has something left to read, and returns how
// far that is good and its last number, or a channel to wait on.
func (c *cursor) position() (grown <-chan struct{}, end int64, last uint64, err error) {
	for {
		c.j.mu.Lock()
		seg, grown, closed := c.choose(), c.j.grown, c.j.closed
		if seg != nil {
			end, last = seg.size, seg.next-1
		}
		c.j.mu.Unlock()
		if closed {
			return nil, 0, 0, ErrClosed
		}
		if seg == nil {
			return grown, 0, 0, nil
		}
		if seg == c.seg {
			return nil, end, last, nil
		}
		if err := c.enter(seg, end); err != nil {
			return nil, 0, 0, err
		}
	}
}

// choose returns the segment to read from, or nil if there is nothing to read
// now. The caller holds the journal's mutex.
func (c *cursor) choose() *segment {
	if c.seg != nil && c.seg.pending > 0 && c.scan.pos < c.seg.size {
		return c.seg
	}
	for _, s := range c.j.segs {
		if (c.seg == nil || s.first > c.seg.first) && s.pending > 0 {
			return s
		}
	}
	return nil
}

func (c *cursor) enter(seg *segment, end int64) error {
	f, err := c.j.open(seg.first)
	if err != nil {
		return err
	}
	c.close()
	c.seg, c.file, c.scan = seg, f, newScanner(f, seg.first, end)
	return nil
}

func (c *cursor) wanted(seq uint64) bool {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	return c.seg.has(seq)
}

// skip reports damage that was not known, and counts as done what it held: it
// must not keep the segment for ever.
func (c *cursor) skip(g gap, r found, ok bool) {
	c.j.mu.Lock()
	known := c.seg.knows(g)
	c.j.mu.Unlock()
	if known {
		return
	}
	from := c.scan.last + 1
	if ok {
		from = r.seq - g.records
	}
	d := c.damaged(c.seg.first, g)
	c.j.mu.Lock()
	c.seg.gaps = append(c.seg.gaps, g)
	c.seg.held = c.seg.held || d.Err != nil
	c.j.mu.Unlock()
	for seq := from; seq < from+g.records; seq++ {
		_ = c.j.markDone(seq) // when closed, the next Open finds the damage again
	}
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close() // it was only read
		c.file = nil
	}
}

// record copies what the cursor found.
func (r found) record() Record {
	return Record{Seq: r.seq, Time: time.Unix(0, r.at), Data: slices.Clone(r.data)}
}
