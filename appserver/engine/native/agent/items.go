package agent

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"

	"towline/appserver/protocol"
)

// Bounds of what people and files put into a message.
const (
	maxInputText  = 1 << 20  // bytes of one text; a paste beyond that belongs into a file
	maxImageBytes = 10 << 20 // of one image file; endpoints refuse more
	maxImageURL   = 16 << 20 // of one data URL
)

// message is a Responses message of one text.
func message(role, body string) json.RawMessage {
	return mustJSON(map[string]any{
		"type": "message", "role": role,
		"content": []any{map[string]any{"type": "input_text", "text": body}},
	})
}

func assistantMessage(body string) json.RawMessage {
	return mustJSON(map[string]any{
		"type": "message", "role": "assistant",
		"content": []any{map[string]any{"type": "output_text", "text": body}},
	})
}

// userItem is what a person sent, as the model reads it. A part that cannot be
// read becomes a sentence saying so: the rest is still worth answering.
func userItem(input []protocol.UserInput) json.RawMessage {
	var parts []any
	say := func(s string) { parts = append(parts, map[string]any{"type": "input_text", "text": s}) }
	image := func(url string) { parts = append(parts, imagePart(url)) }
	n := 0
	for _, in := range input {
		switch in.Type {
		case "text":
			if t := cut(in.Text, maxInputText); len(t) < len(in.Text) {
				say(t + "\n[the rest of this text was too long and left out]")
			} else {
				say(t)
			}
		case "image":
			if len(in.URL) > maxImageURL {
				say("An image was attached, but it is too large to be shown.")
				continue
			}
			image(in.URL)
		case "localImage":
			n++
			url, err := imageURL(in.Path)
			if err != nil {
				say(fmt.Sprintf("The local image at `%s` could not be read: %v", in.Path, err))
				continue
			}
			say(fmt.Sprintf("<image name=[Image #%d] path=%q>", n, in.Path))
			image(url)
			say("</image>")
		case "skill":
			say(fmt.Sprintf("Use the skill %q: its instructions are in %s", in.Name, in.Path))
		case "mention":
			say(fmt.Sprintf("[%s](%s)", in.Name, in.Path))
		default:
			say(fmt.Sprintf("[an attachment of kind %q, which cannot be shown here]", in.Type))
		}
	}
	return mustJSON(map[string]any{"type": "message", "role": "user", "content": parts})
}

// imagePart is a picture in a message or an output. Strict endpoints insist on
// the detail member.
func imagePart(url string) map[string]any {
	return map[string]any{"type": "input_image", "image_url": url, "detail": "high"}
}

// imageURL reads an image file into a data URL.
func imageURL(path string) (string, error) {
	b, err := readRegular(path, maxImageBytes)
	if err != nil {
		return "", err
	}
	typ := http.DetectContentType(b)
	switch typ {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return "data:" + typ + ";base64," + base64.StdEncoding.EncodeToString(b), nil
	}
	return "", errors.New("it is not a PNG, JPEG, GIF or WebP image")
}

// readRegular reads a file of at most limit bytes. Pipes and devices are
// refused: opening one may wait for ever.
func readRegular(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, plain(err)
	}
	defer func() { _ = f.Close() }() // read-only
	st, err := f.Stat()
	if err != nil {
		return nil, plain(err)
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, plain(err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("it is larger than %d MiB", limit>>20)
	}
	return b, nil
}

// plain drops the path from a file error: the sentence around it has it.
func plain(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// contentText is the text of a message's parts, joined; other parts are left out.
func contentText(raw json.RawMessage) string {
	var m struct {
		Content json.RawMessage `json:"content"`
	}
	if json.Unmarshal(raw, &m) != nil {
		return ""
	}
	var whole string
	if json.Unmarshal(m.Content, &whole) == nil {
		return whole
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(m.Content, &parts) != nil {
		return ""
	}
	var texts []string
	for _, p := range parts {
		if p.Text != "" {
			texts = append(texts, p.Text)
		}
	}
	return strings.Join(texts, "\n")
}
