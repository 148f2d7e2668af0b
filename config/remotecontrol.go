package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Switch is what people said about remote control: whether this machine listens
// for other machines beyond its SSH door.
type Switch string

// A machine nobody said anything of is closed, but may be opened for once by
// naming a listener on the command line; one that was switched off may not.
const (
	SwitchUnset Switch = "unset"
	SwitchOn    Switch = "on"
	SwitchOff   Switch = "off"
)

// RemoteControl is the switch as it is kept: `towline remote-control start|off`.
type RemoteControl struct {
	Switch Switch    `json:"switch"`
	Since  time.Time `json:"since,omitzero"`
}

// Enabled reports whether it is on.
func (r RemoteControl) Enabled() bool { return r.Switch == SwitchOn }

func (p Paths) switchFile() string { return filepath.Join(p.State, "remote_control.json") }

// RemoteControl reads the switch. What cannot be read counts as off, and the
// error says why: a broken file must not open a machine.
func (p Paths) RemoteControl() (RemoteControl, error) {
	b, err := os.ReadFile(p.switchFile())
	if errors.Is(err, fs.ErrNotExist) {
		return RemoteControl{Switch: SwitchUnset}, nil
	}
	var r RemoteControl
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && r.Switch != SwitchOn && r.Switch != SwitchOff {
		err = fmt.Errorf("%q is neither on nor off", OneLine(string(r.Switch)))
	}
	if err != nil {
		return RemoteControl{Switch: SwitchOff}, &Problem{
			Stage: "remote control", Err: fmt.Errorf("%s: %w", p.switchFile(), err), Exit: ExitConfig,
			Hints: []string{"set the switch anew: `towline remote-control off`, or `towline remote-control start`"},
		}
	}
	return r, nil
}

// SetRemoteControl keeps the switch. It survives whatever happens to the machine
// once this has returned.
func (p Paths) SetRemoteControl(on bool) error {
	r := RemoteControl{Switch: SwitchOff, Since: time.Now().UTC().Truncate(time.Second)}
	if on {
		r.Switch = SwitchOn
	}
	if now, err := p.RemoteControl(); err == nil && now.Switch == r.Switch {
		return nil // since then
	}
	if err := p.Ensure(); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = replaceFile(p.switchFile(), append(b, '\n'))
	}
	if err != nil {
		return &Problem{Stage: "remote control", Err: fmt.Errorf("keep the switch: %w", err), Exit: ExitConfig}
	}
	return nil
}

// replaceFile puts a private file in place of another, whole or not at all.
func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // half a file is of no use
	}
	return err
}
