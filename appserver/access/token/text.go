package token

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"math/big"
	"strings"
)

// # What a token looks like
//
//	twl_ ID _ SECRET CHECKSUM
//
// ID is 10 characters of Crockford's base 32 in lower case and no secret. SECRET is
// 32 random bytes as 43 digits of base 62, CHECKSUM the CRC-32 of all before it as
// 6 digits of base 62. So scanners find a token that leaked by its form, and a typing
// error is told from a token that does not count without asking anybody.
//
// What is stored is the SHA-256 of the whole text.
const (
	prefix      = "twl_"
	idLen       = 10
	secretBytes = 32
	secretLen   = 43 // 62^43 > 2^256
	sumLen      = 6  // 62^6 > 2^32
	textLen     = len(prefix) + idLen + 1 + secretLen + sumLen
	// secretAt is where the secret begins.
	secretAt = len(prefix) + idLen + 1
)

const (
	base32 = "0123456789abcdefghjkmnpqrstvwxyz"
	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// hash is what is stored of a token's text.
type hash = [sha256.Size]byte

// Hash is what is stored of a token's text, and all that may be sent of it.
func Hash(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }

// newID makes the name of a new token.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	v := binary.BigEndian.Uint64(b[:])
	id := make([]byte, idLen)
	for i := range id {
		id[i], v = base32[v%32], v/32
	}
	return string(id)
}

// newText makes a secret for the token id.
func newText(id string) string {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	body := prefix + id + "_" + digits(new(big.Int).SetBytes(b[:]), secretLen)
	return body + checksum(body)
}

// digits writes v in base 62 with exactly n digits; v has no more.
func digits(v *big.Int, n int) string {
	out := make([]byte, n)
	base, digit := big.NewInt(62), new(big.Int)
	for i := n - 1; i >= 0; i-- {
		v.DivMod(v, base, digit)
		out[i] = base62[digit.Int64()]
	}
	return string(out)
}

func checksum(body string) string {
	return digits(big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))), sumLen)
}

// Form is what a text tells of itself without asking anybody.
type Form int

// The forms of a text.
const (
	Foreign  Form = iota // no token of ours
	Damaged              // begins like one, and is cut, has more, or is mistyped
	WellMade             // has the form and the checksum; whether it counts, a host knows
)

// FormOf tells the form of a text, and the id in one that is WellMade.
func FormOf(text string) (f Form, id string) {
	switch {
	case !strings.HasPrefix(text, prefix):
		return Foreign, ""
	case len(text) != textLen, text[secretAt-1] != '_':
		return Damaged, ""
	}
	id, body := text[len(prefix):secretAt-1], text[:textLen-sumLen]
	if strings.Trim(id, base32) != "" || strings.Trim(text[secretAt:], base62) != "" || checksum(body) != text[textLen-sumLen:] {
		return Damaged, ""
	}
	return WellMade, id
}

// Looks reports whether text is one of ours by prefix and checksum. It says nothing
// of whether it counts.
func Looks(text string) bool {
	f, _ := FormOf(text)
	return f == WellMade
}
