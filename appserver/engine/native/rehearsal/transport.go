package rehearsal

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// RoundTrip calls ServeHTTP in memory. The body streams as it is written; ending
// the request's context or closing the body ends the handler. One goroutine
// lives per answer, until the body was read to its end or closed.
func (m *Model) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	pr, pw := io.Pipe()
	mem := &memory{header: make(http.Header), body: pw, ready: make(chan struct{})}
	req := r.Clone(ctx)
	if req.Body == nil {
		req.Body = http.NoBody
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			_ = req.Body.Close() // a RoundTripper closes it; there is nobody to tell
			// The only panic that is meant is the cut connection of failOnPurpose;
			// any other is contained and looks the same to the client.
			if p := recover(); p != nil {
				_ = pw.CloseWithError(io.ErrUnexpectedEOF)
			}
			_ = pw.CloseWithError(context.Cause(ctx)) // nil: io.EOF
			mem.WriteHeader(http.StatusOK)
		}()
		m.ServeHTTP(mem, req)
	}()
	stop := context.AfterFunc(ctx, func() { _ = pw.CloseWithError(context.Cause(ctx)) })
	body := &memoryBody{PipeReader: pr, end: func() {
		cancel()
		_ = pr.CloseWithError(errClosed)
		<-done
		stop()
	}}
	select {
	case <-mem.ready:
	case <-ctx.Done():
		err := context.Cause(ctx)
		_ = body.Close()
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(mem.status), StatusCode: mem.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: mem.sent, Body: body, ContentLength: -1, Request: r,
	}, nil
}

var errClosed = errors.New("rehearsal: response body closed")

// memory is the http.ResponseWriter of an in-memory call.
type memory struct {
	header http.Header
	body   *io.PipeWriter
	once   sync.Once
	ready  chan struct{} // closed when status and sent are set
	status int
	sent   http.Header
}

func (w *memory) Header() http.Header { return w.header }

func (w *memory) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.ready)
	})
}

func (w *memory) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush has nothing to do: a Write returns when the reader has the bytes.
func (w *memory) Flush() {}

// memoryBody ends the handler when it is closed or read to its end.
type memoryBody struct {
	*io.PipeReader
	once sync.Once
	end  func()
}

func (b *memoryBody) Read(p []byte) (int, error) {
	n, err := b.PipeReader.Read(p)
	if err != nil {
		b.once.Do(b.end)
	}
	return n, err
}

func (b *memoryBody) Close() error {
	b.once.Do(b.end)
	return nil
}
