package gate

import (
	"context"
	"time"

	"towline/appserver/rpc"
)

// lapseTime is how long a client may take to read that it is over. A second after
// its credential stopped to count it is gone, whatever it does.
const lapseTime = 500 * time.Millisecond

// errLapsed ends the connections of a principal whose credential was revoked, has
// expired or lost its role. To a resumable stream it is an expulsion: it does not
// wait for anybody.
var errLapsed error = lapsed{}

type lapsed struct{}

func (lapsed) Error() string        { return "access ended: it was revoked, has expired, or lost its role" }
func (lapsed) Is(target error) bool { return target == rpc.ErrExpelled }

// lapsed reports whether the client's credential counts no more. It is asked
// before everything the client wants to be done.
func (c *client) lapsed() bool {
	select {
	case <-c.who.Principal.Lapsed: // never, when nil
		return true
	default:
		return false
	}
}

// watchLapse tells the client and ends it when its credential stops to count.
func (c *client) watchLapse(ctx context.Context) {
	select {
	case <-c.who.Principal.Lapsed:
	case <-ctx.Done():
		return
	}
	c.g.stats.lapsed.Add(1)
	c.warn("", errLapsed.Error())
	ctx, cancel := context.WithTimeout(ctx, lapseTime)
	defer cancel()
	_ = c.out.Flush(ctx) // one that does not read has had its time
	c.end(errLapsed)
}
