package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// A budget is how many bytes may yet be taken into memory. Nobody waits for it:
// uploads that each held half of it would wait for ever.
type budget struct{ left atomic.Int64 }

// take reports whether n bytes more were left. They must be given back if not,
// too.
func (b *budget) take(n int64) bool { return b.left.Add(-n) >= 0 }

func (b *budget) give(n int64) { b.left.Add(n) }

// charged is how many of n bytes a budget counts.
func charged(n int64) int64 { return max(0, n-freeBytes) }

// An intake reads a body within bounds: that of the body, that of what stands
// between its parts, that of all uploads which are in memory, and the time that
// it may take.
type intake struct {
	r      io.Reader
	left   int64 // of this body
	read   int64 // of this body
	shared *budget
	pace   *pace // nil if time does not matter

	between bool
	gap     int64 // left of what may stand between two parts

	closing string // the boundary behind the last part
	tail    []byte // the last bytes that were read
	err     error  // why it does not read on
}

// maxTail is enough for a closing boundary and some white space.
const maxTail = 128

// newIntake reads the body r.
func newIntake(r io.Reader, limit int64, shared *budget, p *pace) *intake {
	return &intake{r: r, left: limit, shared: shared, pace: p, tail: []byte("\n")}
}

// betweenParts and insidePart say what is being read. The multipart reader
// reads ahead by up to one buffer, and the bounds are that vague.
func (in *intake) betweenParts(limit int64) { in.between, in.gap = true, limit }
func (in *intake) insidePart()              { in.between = false }

// Read returns io.EOF only behind a closing boundary, else io.ErrUnexpectedEOF.
// The multipart reader takes an end inside the header of a file for the end of
// the whole: a body that was cut there would pass without its last files.
func (in *intake) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.r.Read(p)
	in.pace.add(n)
	in.tail = append(in.tail, p[max(0, n-maxTail):n]...)
	in.tail = append(in.tail[:0], in.tail[max(0, len(in.tail)-maxTail):]...)
	in.left -= int64(n)
	if in.between {
		in.gap -= int64(n)
	}
	before := in.read
	in.read += int64(n)
	switch available := in.shared.take(charged(in.read) - charged(before)); {
	case in.left < 0:
		in.err = refused("the upload is too large")
	case in.between && in.gap < 0:
		in.err = refused("the header of a file in the upload is too large")
	case !available:
		in.err = fmt.Errorf("%w: the uploads that are being read fill the memory for them", answerUnavailable)
	case err == io.EOF:
		if in.err = io.ErrUnexpectedEOF; in.closed() {
			in.err = io.EOF
		}
		return n, in.err
	case errors.Is(err, os.ErrDeadlineExceeded):
		in.err = fmt.Errorf("%w: %w", refused("the upload is too slow"), err)
	case err != nil:
		in.err = fmt.Errorf("%w: %w", refused("the upload ends too soon"), err)
	default:
		return n, nil
	}
	return 0, in.err
}

// closed reports whether the last line that was read is the closing boundary.
func (in *intake) closed() bool {
	before, ok := bytes.CutSuffix(bytes.TrimRight(in.tail, " \t\r\n"), []byte(in.closing))
	return ok && bytes.HasSuffix(before, []byte("\n"))
}

// release gives back what the body took of the shared budget.
func (in *intake) release() {
	in.shared.give(charged(in.read))
	in.read = 0
}

// fault says why the body could not be read on, given the multipart reader's
// view of it. That may quote the body or name addresses: it is for the log.
func (in *intake) fault(err error) error {
	if _, ok := errors.AsType[*answer](in.err); ok {
		return in.err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", refused("the upload ends too soon"), err)
	}
	return fmt.Errorf("%w: %w", refused("the upload is not a multipart body"), err)
}

// paceBytes is how much of an upload must arrive in [Limits.Stall], unless that
// is its end. Whoever holds memory and sends less is cut off: a few connections
// could keep all others from publishing.
const paceBytes = 160 << 10

// A pace sets the read deadline of a connection while a body is read.
type pace struct {
	set   func(time.Time) error // fails where there is no connection, as in some tests: then nothing is enforced
	now   func() time.Time
	stall time.Duration
	end   time.Time // no deadline is later
	want  int       // bytes until there is more time
}

func newPace(set func(time.Time) error, now func() time.Time, stall time.Duration, end time.Time) *pace {
	p := &pace{set: set, now: now, stall: stall, end: end}
	p.renew()
	return p
}

func (p *pace) renew() {
	p.want = paceBytes
	next := p.now().Add(p.stall)
	if next.After(p.end) {
		next = p.end
	}
	_ = p.set(next)
}

// add notes that n bytes have arrived.
func (p *pace) add(n int) {
	if p == nil {
		return
	}
	if p.want -= n; p.want <= 0 {
		p.renew()
	}
}

// done ends it. A deadline that passed while the request is worked on would
// look like a client that has hung up.
func (p *pace) done() { _ = p.set(p.end.Add(p.stall)) }
