//go:build unix

package transport

import (
	"context"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/rpc"
)

// BenchmarkResumable compares a resumable stream with a plain one over the same
// kind of socket: a round trip, and a stream of a model's words.
func BenchmarkResumable(b *testing.B) {
	ss := rpc.NewSessions(rpc.SessionsConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = ss.Run(ctx) }()
	defer func() { cancel(); <-ran }()
	l, err := Listen(b.Context(), "unix://"+b.TempDir()+"/s/sock", Options{Sessions: ss})
	if err != nil {
		b.Fatal(err)
	}
	const words = 5000
	word := make([]byte, 200)
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, func(ctx context.Context, s rpc.Stream, _ access.Principal, _, _ string) {
			for {
				msg, err := s.Read(ctx)
				if err != nil {
					return
				}
				if string(msg) != "speak" {
					_ = s.Write(ctx, msg)
					continue
				}
				for range words {
					if s.Write(ctx, word) != nil {
						return
					}
				}
			}
		})
	}()
	defer func() { cancel(); <-done }()
	plain, err := Dial(ctx, l.URL())
	if err != nil {
		b.Fatal(err)
	}
	resumable := rpc.NewResumable(rpc.ResumeOptions{Dial: func(ctx context.Context) (rpc.Stream, error) { return DialLink(ctx, l.URL()) }})
	if err := resumable.Connect(ctx); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = plain.Close(nil); _ = resumable.Close(nil) }()

	trip := func(s rpc.Stream) time.Duration {
		begin := time.Now()
		for range 500 {
			if s.Write(ctx, word) != nil {
				b.Fatal("write")
			}
			if _, err := s.Read(ctx); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(begin)
	}
	stream := func(s rpc.Stream) time.Duration {
		begin := time.Now()
		if s.Write(ctx, []byte("speak")) != nil {
			b.Fatal("write")
		}
		for range words {
			if _, err := s.Read(ctx); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(begin)
	}
	var p, r [2]time.Duration
	for b.Loop() {
		for i, f := range []func(rpc.Stream) time.Duration{trip, stream} {
			p[i] += f(plain)
			r[i] += f(resumable)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(r[0])/float64(p[0]), "roundtrip-resumable/plain")
	b.ReportMetric(float64(r[1])/float64(p[1]), "stream-resumable/plain")
}
