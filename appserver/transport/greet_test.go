package transport

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

const plainGreeting = "GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\nConnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// What is unusual about a request is net/http's to judge.
func TestOnlyThePlainRequestIsAnsweredAtTheDoor(t *testing.T) {
	for name, tc := range map[string]struct {
		request string
		plain   bool
	}{
		"plain":               {plainGreeting, true},
		"and more":            {plainGreeting + "\x81\x80", true},
		"a credential":        {strings.Replace(plainGreeting, "\r\n\r\n", "\r\nAuthorization: Bearer x\r\n\r\n", 1), true},
		"a path":              {strings.Replace(plainGreeting, "GET /", "GET /rpc", 1), true},
		"not all of it":       {plainGreeting[:len(plainGreeting)-1], false},
		"nothing":             {"", false},
		"no method":           {plainGreeting[4:], false},
		"another method":      {strings.Replace(plainGreeting, "GET", "PUT", 1), false},
		"a query":             {strings.Replace(plainGreeting, "GET /", "GET /?x", 1), false},
		"escapes":             {strings.Replace(plainGreeting, "GET /", "GET /%72eadyz", 1), false},
		"absolute":            {strings.Replace(plainGreeting, "GET /", "GET http://x/", 1), false},
		"an older protocol":   {strings.Replace(plainGreeting, "HTTP/1.1", "HTTP/1.0", 1), false},
		"a web page":          {strings.Replace(plainGreeting, "\r\n\r\n", "\r\nOrigin: null\r\n\r\n", 1), false},
		"a body":              {strings.Replace(plainGreeting, "\r\n\r\n", "\r\nContent-Length: 1\r\n\r\n", 1), false},
		"chunks":              {strings.Replace(plainGreeting, "\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n", 1), false},
		"two hosts":           {strings.Replace(plainGreeting, "\r\n\r\n", "\r\nHost: x\r\n\r\n", 1), false},
		"two keys":            {strings.Replace(plainGreeting, "\r\n\r\n", "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 1), false},
		"a folded line":       {strings.Replace(plainGreeting, "\r\n\r\n", "\r\n Authorization: x\r\n\r\n", 1), false},
		"a space in a name":   {strings.Replace(plainGreeting, "Host:", "Host :", 1), false},
		"a bare line feed":    {strings.Replace(plainGreeting, "\r\n\r\n", "\nAuthorization: x\r\n\r\n", 1), false},
		"a short key":         {strings.Replace(plainGreeting, "dGhl", "", 1), false},
		"a key of odd text":   {strings.Replace(plainGreeting, "dGhl", "\u00e9h", 1), false},
		"a letter that folds": {strings.Replace(plainGreeting, "Key", "\u212aey", 1), false},
		"no key":              {strings.Replace(plainGreeting, "Key", "Protocol", 1), false},
		"another upgrade":     {strings.Replace(plainGreeting, "WebSocket\r", EgressProtocol+"\r", 1), false},
		"an address of ours":  {strings.Replace(plainGreeting, "127.0.0.1:80", "a/b", 1), false},
	} {
		if r, _ := greeting([]byte(tc.request)); (r != nil) != tc.plain {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A request that is answered at the door is what net/http reads.
func FuzzGreeting(f *testing.F) {
	f.Add([]byte(plainGreeting))
	f.Add([]byte(strings.Replace(plainGreeting, "\r\n\r\n", "\r\nAuthorization:  Bearer x \r\nUser-Agent: y\r\n\r\nmore", 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ahead := greeting(b)
		if got == nil {
			return
		}
		br := bufio.NewReader(bytes.NewReader(b))
		want, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if got.Method != want.Method || got.URL.Path != want.URL.Path || got.Host != want.Host || got.RequestURI != want.RequestURI ||
			got.Proto != want.Proto || want.ContentLength != 0 || !reflect.DeepEqual(got.Header, want.Header) {
			t.Fatalf("%q: %+v, want %+v", b, got, want)
		}
		if rest, _ := io.ReadAll(br); !bytes.Equal(rest, ahead) {
			t.Fatalf("%q: then %q, want %q", b, ahead, rest)
		}
		if no := malformed(want); no != nil || offersEgress(want) {
			t.Fatalf("%q: %+v", b, no)
		}
	})
}
