package egress

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// uplink is the host's end of one stream.
type uplink struct {
	rw    *stream
	cc    *http.ClientConn
	lease Lease
	allow []Target
	body  io.ReadCloser // of the lease
	lines *bufio.Scanner
}

// begin uses a stream whose handshake is done, and hears what is lent.
func begin(ctx context.Context, rw io.ReadWriteCloser) (_ *uplink, err error) {
	u := &uplink{rw: newStream(rw)}
	defer func() {
		if err != nil {
			u.close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = u.rw.Close() })
	defer stop()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{
		Protocols:              &protocols,
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return u.rw, nil },
		MaxResponseHeaderBytes: maxAnswer,
		DisableCompression:     true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: 1 << 20, StrictMaxConcurrentRequests: true,
			SendPingTimeout: pingAfter, PingTimeout: pingTime,
		},
	}
	if u.cc, err = tr.NewClientConn(ctx, "http", "laptop:80"); err != nil {
		return nil, err
	}
	life := context.WithoutCancel(ctx) // the lease ends with the stream
	req, err := http.NewRequestWithContext(life, http.MethodGet, "http://laptop/lease", nil)
	if err != nil {
		return nil, err
	}
	res, err := u.cc.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	u.body = res.Body
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the lease was answered with %d", res.StatusCode)
	}
	u.lines = bufio.NewScanner(res.Body)
	u.lines.Buffer(nil, maxLine)
	if u.lease, err = u.next(); err != nil {
		return nil, err
	}
	if u.lease.Bye || len(u.lease.Allow) > maxTargets {
		return nil, errors.New("the lease lends nothing, or too much")
	}
	for _, s := range u.lease.Allow {
		t, err := ParseTarget(s)
		if err != nil {
			return nil, fmt.Errorf("the lease names %q: %w", plain(s), err)
		}
		u.allow = append(u.allow, t)
	}
	u.lease.From = plain(u.lease.From)
	return u, nil
}

func (u *uplink) next() (Lease, error) {
	if !u.lines.Scan() {
		err := u.lines.Err()
		if err == nil {
			err = io.EOF
		}
		return Lease{}, err
	}
	var l Lease
	if err := json.Unmarshal(u.lines.Bytes(), &l); err != nil {
		return Lease{}, errors.New("the lease is not what it should be")
	}
	return l, nil
}

// wait returns when the loan is over, and whether the laptop said goodbye.
func (u *uplink) wait() (bye bool) {
	for {
		l, err := u.next()
		if err != nil || l.Bye {
			return err == nil
		}
	}
}

// tell says how far this host is. A laptop that does not hear it is gone.
func (u *uplink) tell(ctx context.Context, st Status) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	body, err := json.Marshal(st)
	if err != nil {
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://laptop/status", bytes.NewReader(body))
	if err != nil {
		return
	}
	if res, err := u.cc.RoundTrip(req); err == nil {
		_ = res.Body.Close()
	}
}

func (u *uplink) lends(t Target) bool { return slices.Contains(u.allow, t) }

func (u *uplink) dial(ctx context.Context, t Target) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTime+10*time.Second, errors.New("the laptop did not answer in time"))
	defer cancel()
	c, err := connect(ctx, u.cc, t)
	var de *dialError
	if err != nil && !errors.As(err, &de) && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return c, err
}

func (u *uplink) close() {
	if u.body != nil {
		_ = u.body.Close()
	}
	if u.cc != nil {
		_ = u.cc.Close()
	}
	_ = u.rw.Close()
}
