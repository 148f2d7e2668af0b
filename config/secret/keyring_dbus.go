//go:build !darwin && !windows

package secret

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/godbus/dbus/v5"
)

// sharedKeyring: Codex's entry can be written so that Codex reads it.
const sharedKeyring = true

const (
	keyringUnlockHint = "unlock the keyring: log in to the desktop, or run `gnome-keyring-daemon --unlock` and type its password"
	keyringAbsentHint = "a Secret Service is needed: a desktop session has one, a server usually has not"
)

// secretService is the keyring of Linux and the BSDs: the Secret Service of
// freedesktop.org, version 0.2, over the session bus.
//
// Every operation has a connection of its own, which ends with the operation's
// context: so nothing can hang longer, and nothing stays behind. The library's
// shared connection, and go-keyring's Set and Get on top of it, wait for a
// person's answer without an end, and lack the attributes Codex looks for.
//
// Secrets cross the bus in the "plain" session. The bus is this user's unix
// socket, and whoever could listen there could as well ask for the secret; an
// address that is not a unix socket is not used.
type secretService struct {
	getenv func(string) string
}

func systemKeyring(getenv func(string) string) keyring { return secretService{getenv} }

// Names of the Secret Service.
const (
	ssName       = "org.freedesktop.secrets"
	ssPath       = dbus.ObjectPath("/org/freedesktop/secrets")
	ssService    = "org.freedesktop.Secret.Service."
	ssCollection = "org.freedesktop.Secret.Collection."
	ssItem       = "org.freedesktop.Secret.Item."
	ssPrompt     = "org.freedesktop.Secret.Prompt."
	ssSession    = "org.freedesktop.Secret.Session."
	noPath       = dbus.ObjectPath("/") // "none", for prompts and aliases
)

// ssSecret is the wire form of a secret: (oayays).
type ssSecret struct {
	Session     dbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

// address finds the session bus without starting one. Addresses other than
// unix sockets would carry the secret in the clear.
func (s secretService) address() (string, error) {
	list := s.getenv("DBUS_SESSION_BUS_ADDRESS")
	if list == "" {
		run := s.getenv("XDG_RUNTIME_DIR")
		if !filepath.IsAbs(run) {
			return "", fmt.Errorf("%w: no session bus", ErrNoKeyring)
		}
		list = "unix:path=" + dbus.EscapeBusAddressValue(filepath.Join(run, "bus"))
	}
	for a := range strings.SplitSeq(list, ";") {
		if strings.HasPrefix(a, "unix:") {
			return a, nil
		}
	}
	return "", fmt.Errorf("%w: the session bus is not a unix socket", ErrNoKeyring)
}

// ssConn is one operation's connection, with a session to carry secrets in.
type ssConn struct {
	ctx     context.Context // the operation's: a connection here is a lifetime
	bus     *dbus.Conn
	session dbus.ObjectPath
}

func (s secretService) open(ctx context.Context) (*ssConn, error) {
	address, err := s.address()
	if err != nil {
		return nil, err
	}
	// The context closes the connection, which ends an authentication or a
	// call that gets no answer.
	bus, err := dbus.Connect(address, dbus.WithContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: no session bus answers", ErrNoKeyring)
	}
	c := &ssConn{ctx: ctx, bus: bus}
	var discard dbus.Variant
	if err := c.call(ssPath, ssService+"OpenSession", "plain", dbus.MakeVariant("")).into(&discard, &c.session); err != nil {
		_ = bus.Close()
		return nil, err
	}
	return c, nil
}

// close ends the session, which a service would otherwise keep until it notices
// that we are gone, and the connection.
func (c *ssConn) close() {
	c.bus.Object(ssName, c.session).Go(ssSession+"Close", dbus.FlagNoReplyExpected, nil)
	_ = c.bus.Close()
}

type reply struct{ call *dbus.Call }

func (c *ssConn) call(on dbus.ObjectPath, method string, args ...any) reply {
	return reply{c.bus.Object(ssName, on).CallWithContext(c.ctx, method, 0, args...)}
}

// into stores an answer. Of an error only the name is kept: its text comes from
// whoever calls himself the service.
func (r reply) into(to ...any) error {
	err := r.call.Err
	var e dbus.Error
	switch {
	case err == nil:
		if r.call.Store(to...) != nil {
			return errors.New("the keyring answers in another form than agreed")
		}
		return nil
	case errors.As(err, &e):
		return named(e.Name)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return errors.New("the connection to the keyring broke")
}

func named(name string) error {
	switch name {
	case "org.freedesktop.Secret.Error.IsLocked":
		return ErrLocked
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return fmt.Errorf("%w: no Secret Service on the session bus", ErrNoKeyring)
	case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.TimedOut", "org.freedesktop.DBus.Error.Timeout":
		return ErrTimeout
	}
	if strings.HasPrefix(name, "org.freedesktop.DBus.Error.Spawn.") {
		return fmt.Errorf("%w: the Secret Service does not start", ErrNoKeyring)
	}
	return fmt.Errorf("the keyring says %s", clean(name))
}

// unlock opens what can be opened without a person. A prompt is made by the
// service when it needs one, and shown only when asked to: we withdraw it.
func (c *ssConn) unlock(what dbus.ObjectPath) error {
	var open []dbus.ObjectPath
	prompt := noPath
	if err := c.call(ssPath, ssService+"Unlock", []dbus.ObjectPath{what}).into(&open, &prompt); err != nil {
		return err
	}
	if err := c.unasked(prompt); err != nil {
		return err
	}
	if len(open) == 0 {
		return ErrLocked
	}
	return nil
}

// unasked withdraws a prompt, if there is one.
func (c *ssConn) unasked(prompt dbus.ObjectPath) error {
	if prompt == noPath || prompt == "" {
		return nil
	}
	_ = c.call(prompt, ssPrompt+"Dismiss").into() // it also goes with our connection
	return ErrLocked
}

// find gives the items of an entry, the one changed last first.
func (c *ssConn) find(e entry) ([]dbus.ObjectPath, error) {
	var open, locked []dbus.ObjectPath
	match := map[string]string{"service": e.service, "username": e.user}
	if err := c.call(ssPath, ssService+"SearchItems", match).into(&open, &locked); err != nil {
		return nil, err
	}
	for _, item := range locked {
		if err := c.unlock(item); err != nil {
			return nil, err // the one we want may be among the locked ones
		}
		open = append(open, item)
	}
	var newest uint64
	for i, item := range open {
		if len(open) == 1 {
			break
		}
		var v dbus.Variant
		if err := c.call(item, "org.freedesktop.DBus.Properties.Get", strings.TrimSuffix(ssItem, "."), "Modified").into(&v); err != nil {
			return nil, err
		}
		if at, ok := v.Value().(uint64); ok && at > newest {
			newest = at
			open[0], open[i] = open[i], open[0]
		}
	}
	return open, nil
}

func (s secretService) get(ctx context.Context, e entry) ([]byte, error) {
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	items, err := c.find(e)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, ErrNone
	}
	var secret ssSecret
	if err := c.call(items[0], ssItem+"GetSecret", c.session).into(&secret); err != nil {
		return nil, err
	}
	return secret.Value, nil
}

func (s secretService) set(ctx context.Context, e entry, secret []byte) error {
	c, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	items, err := c.find(e)
	if err != nil {
		return err
	}
	wire := ssSecret{Session: c.session, Parameters: []byte{}, Value: secret, ContentType: "text/plain"}
	if len(items) == 0 {
		return c.create(e, wire)
	}
	if err := c.call(items[0], ssItem+"SetSecret", wire).into(); err != nil {
		return err
	}
	for _, twin := range items[1:] { // Codex refuses to choose between two
		if err := c.delete(twin); err != nil {
			return err
		}
	}
	return nil
}

func (c *ssConn) create(e entry, wire ssSecret) error {
	collection, err := c.collection()
	if err != nil {
		return err
	}
	props := map[string]dbus.Variant{
		ssItem + "Label": dbus.MakeVariant(e.label),
		ssItem + "Attributes": dbus.MakeVariant(map[string]string{
			"service": e.service, "username": e.user, "target": "default", "application": e.application,
		}),
	}
	item, prompt := noPath, noPath
	if err := c.call(collection, ssCollection+"CreateItem", props, wire, true).into(&item, &prompt); err != nil {
		return err
	}
	return c.unasked(prompt)
}

// collection is the default one, open.
func (c *ssConn) collection() (dbus.ObjectPath, error) {
	path := noPath
	if err := c.call(ssPath, ssService+"ReadAlias", "default").into(&path); err != nil {
		return "", err
	}
	if path == noPath || path == "" {
		// Making one would ask a person for its password.
		return "", fmt.Errorf("%w: the Secret Service has no default collection", ErrNoKeyring)
	}
	var v dbus.Variant
	if err := c.call(path, "org.freedesktop.DBus.Properties.Get", strings.TrimSuffix(ssCollection, "."), "Locked").into(&v); err != nil {
		return "", err
	}
	if locked, _ := v.Value().(bool); locked {
		return path, c.unlock(path)
	}
	return path, nil
}

func (c *ssConn) delete(item dbus.ObjectPath) error {
	prompt := noPath
	if err := c.call(item, ssItem+"Delete").into(&prompt); err != nil {
		return err
	}
	return c.unasked(prompt)
}

func (s secretService) remove(ctx context.Context, e entry) (bool, error) {
	c, err := s.open(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	items, err := c.find(e)
	if err != nil {
		return false, err
	}
	for _, item := range items {
		if err := c.delete(item); err != nil {
			return true, err
		}
	}
	return len(items) > 0, nil
}

func (s secretService) ready(ctx context.Context) error {
	c, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.collection()
	return err
}
