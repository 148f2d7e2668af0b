package secret

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// A sealed file, in order:
//
//	"towline-sealed 1\n"
//	the header, one line of JSON (at most 4 KiB) and a newline:
//	    purpose   "credential" or "journal"
//	    home      which CODEX_HOME it belongs to (16 hex digits)
//	    key       where its key comes from: "passphrase", "systemd", "kernel",
//	              "keyring", "runtime"
//	    salt      32 bytes, base64
//	    argon2id  {time, memory_kib, threads}; with a passphrase only
//	    nonce     24 bytes, base64
//	    check     16 bytes, base64: tells a wrong key from damage
//	the content under XChaCha20-Poly1305, with both lines as additional data
//	SHA-256 of everything before it
//
// The key is HKDF-SHA-256 of the source's secret (Argon2id of a passphrase)
// with the salt; "check" is an HMAC, under a second key derived the same way,
// of the header without it. So a bit that flipped shows in the hash, a key
// that does not fit in the check, and what is left is a file that somebody
// changed with care, which the cipher's own tag refuses.
const (
	sealMagic   = "towline-sealed 1\n"
	maxHeader   = 4 << 10
	saltSize    = 32
	checkSize   = 16
	sealOverall = maxStored + maxHeader + 1024 // a file: content, header, the rest

	forCredential = "credential"
	forJournal    = "journal"
)

type header struct {
	Purpose string     `json:"purpose"`
	Home    string     `json:"home"`
	Key     string     `json:"key"`
	Salt    []byte     `json:"salt"`
	Argon   *argonCost `json:"argon2id,omitempty"`
	Nonce   []byte     `json:"nonce"`
	Check   []byte     `json:"check,omitempty"`
}

// split takes a sealed file apart and says whether it is whole.
func split(b []byte) (h header, aad, box []byte, err error) {
	fail := func(why string) (header, []byte, []byte, error) {
		return header{}, nil, nil, fmt.Errorf("sealed file %w: %s", ErrDamaged, why)
	}
	if len(b) > sealOverall {
		return fail("too large")
	}
	rest, ok := bytes.CutPrefix(b, []byte(sealMagic))
	if !ok {
		return fail("it does not begin as one, or a newer version wrote it")
	}
	line, _, ok := bytes.Cut(rest, []byte("\n"))
	if !ok || len(line) > maxHeader {
		return fail("no header")
	}
	end := len(b) - sha256.Size
	start := len(sealMagic) + len(line) + 1
	if end < start {
		return fail("cut short")
	}
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return fail("its checksum differs")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if d.Decode(&h) != nil || d.More() {
		return fail("unreadable header")
	}
	if len(h.Salt) != saltSize || len(h.Nonce) != chacha20poly1305.NonceSizeX || len(h.Check) != checkSize {
		return fail("odd sizes in the header")
	}
	if h.Argon != nil {
		if err := h.Argon.bounded(); err != nil {
			return fail(err.Error())
		}
	}
	return h, b[:start], b[start:end], nil
}

// unseal opens what seal closed, with the secret its header's source gave.
func unseal(b, secret []byte, purpose, home string) ([]byte, error) {
	h, aad, box, err := split(b)
	if err != nil {
		return nil, err
	}
	if h.Purpose != purpose || h.Home != home {
		return nil, fmt.Errorf("sealed file %w: it belongs to another CODEX_HOME or use", ErrDamaged)
	}
	key, check := derive(secret, h)
	if !hmac.Equal(check, h.Check) {
		return nil, ErrWrongKey
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, h.Nonce, box, aad)
	if err != nil {
		return nil, fmt.Errorf("sealed file %w: the key fits, the content was changed", ErrDamaged)
	}
	return plain, nil
}

// seal closes content under a header whose purpose, home, source, salt and
// costs are set; nonce and check are filled in anew.
func seal(h header, secret, content []byte) ([]byte, error) {
	h.Nonce, h.Check = random(chacha20poly1305.NonceSizeX), nil
	key, check := derive(secret, h)
	h.Check = check
	line, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	out := append([]byte(sealMagic), line...)
	out = append(out, '\n')
	out = aead.Seal(out, h.Nonce, content, out[:len(out):len(out)])
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// derive gives the cipher's key and the header's check.
func derive(secret []byte, h header) (key, check []byte) {
	sub := func(use string) []byte {
		k, err := hkdf.Key(sha256.New, secret, h.Salt, "towline sealed 1 "+h.Purpose+" "+use, chacha20poly1305.KeySize)
		if err != nil {
			panic("secret: " + err.Error()) // only for lengths no hash can give
		}
		return k
	}
	h.Check = nil
	line, err := json.Marshal(h)
	if err != nil {
		panic("secret: " + err.Error()) // strings, bytes and numbers
	}
	mac := hmac.New(sha256.New, sub("check"))
	mac.Write(line)
	return sub("content"), mac.Sum(nil)[:checkSize]
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b
}
