package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Heir is a process about to succeed a daemon. Make it with [Dial]. Closing it
// before Ready has returned gives everything up.
type Heir struct {
	w     *wire
	Offer Offer

	mu    sync.Mutex // guards what follows
	files map[string]*os.File
}

// Dial meets the daemon that listens at path. It goes on as before until Claim.
func Dial(ctx context.Context, path, version string) (*Heir, error) {
	w, err := dialPrivate(ctx, path)
	if err != nil {
		return nil, err
	}
	h := &Heir{w: w, files: make(map[string]*os.File)}
	err = w.send(ctx, message{Do: doSucceed, Format: Format, Version: version})
	var m message
	if err == nil {
		m, _, err = w.expect(ctx, helloTime, doOffer)
	}
	if err == nil && (m.Offer == nil || m.Offer.Format != Format) {
		err = errors.New("what it offers is not understood here")
	}
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("meet the daemon: %w", err)
	}
	h.Offer = *m.Offer
	return h, nil
}

// Claim has the daemon stop serving and give its files.
func (h *Heir) Claim(ctx context.Context) error {
	err := h.w.send(ctx, message{Do: doClaim})
	var m message
	var files []*os.File
	if err == nil {
		m, files, err = h.w.expect(ctx, goTime, doOffer)
	}
	if err == nil && m.Offer == nil {
		closeAll(files)
		err = errors.New("it offers nothing")
	}
	if err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	h.Offer = *m.Offer
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, f := range files {
		h.files[m.Files[i]] = f
	}
	return nil
}

// Take is the file of that name, which is the caller's from then on; nil when
// there is none.
func (h *Heir) Take(name string) *os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.files[name]
	delete(h.files, name)
	return f
}

// Names lists the files nobody has taken.
func (h *Heir) Names() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]string, 0, len(h.files))
	for n := range h.files {
		out = append(out, n)
	}
	return out
}

// Ready says that everything is open, and returns when this process is the
// daemon. An elder that has died cannot take anything back: then it is, too.
func (h *Heir) Ready(ctx context.Context) error {
	err := h.w.send(ctx, message{Do: doReady})
	if err == nil {
		_, _, err = h.w.expect(ctx, goTime, doGo)
	}
	if err != nil && (errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)) || isReset(err) {
		if h.elderDied(ctx) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	return nil
}

// elderDied gives the elder, which hung up, a moment to be gone.
func (h *Heir) elderDied(ctx context.Context) bool {
	const moment, look = 2 * time.Second, 20 * time.Millisecond
	for end := time.Now().Add(moment); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(look) {
		if !alive(h.w.peer) {
			return true
		}
	}
	return false
}

// Close ends the meeting and closes what nobody took. It may be called again.
func (h *Heir) Close() {
	h.w.close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, f := range h.files {
		_ = f.Close() // the elder has its own
		delete(h.files, n)
	}
}

// Ask is what the daemon that listens at path has to hand over.
func Ask(ctx context.Context, path string) (Offer, error) {
	m, err := request(ctx, path, message{Do: doOffer}, doOffer)
	if err == nil && m.Offer == nil {
		err = errors.New("it offers nothing")
	}
	if err != nil {
		return Offer{}, fmt.Errorf("ask the daemon: %w", err)
	}
	return *m.Offer, nil
}

// Start has the daemon that listens at path run program, an absolute path, as its
// heir: with the arguments and in the environment it was itself started in.
func Start(ctx context.Context, path, program string) (pid int, err error) {
	m, err := request(ctx, path, message{Do: doStart, Program: program}, doStart)
	if err != nil {
		return 0, fmt.Errorf("have the daemon start its successor: %w", err)
	}
	return m.PID, nil
}

// Tell has the daemon at path record something.
func Tell(ctx context.Context, path string, n Note) error {
	_, err := request(ctx, path, message{Do: doNote, Note: &n}, doWelcome)
	return err
}

func request(ctx context.Context, path string, m message, answer string) (message, error) {
	w, err := dialPrivate(ctx, path)
	if err != nil {
		return message{}, err
	}
	defer w.close()
	if err := w.send(ctx, m); err != nil {
		return message{}, err
	}
	m, files, err := w.expect(ctx, startTime, answer)
	closeAll(files)
	return m, err
}

// Visit brings a client to the daemon at path. What is written to the connection
// is the client's.
func Visit(ctx context.Context, path string, g Guest) (net.Conn, error) {
	w, err := dialPrivate(ctx, path)
	if err != nil {
		return nil, err
	}
	err = w.send(ctx, message{Do: doGuest, Guest: &g})
	if err == nil {
		_, _, err = w.expect(ctx, helloTime, doWelcome)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w.c, nil
}
