package peer

import "testing"

// LoginShell is how somebody has set up their account: the shell sshd gives
// every command to, and what its start files do to it.
type LoginShell struct {
	Name    string
	Account Account
	// Dir is a folder below the home that only a start file puts on the PATH;
	// "" when none does.
	Dir string
	// Needs are programs it is made of.
	Needs []string
}

// noise is what start files print: banners, a fortune, a title for the
// terminal, half a line without an end, things that look like our own markers.
const noise = `
echo "*** Welcome to $(hostname). Unauthorised access is prohibited. ***"
printf '\033]0;dev box\007'
echo "You will be surprised by a loud noise."
echo "{\"id\":1,\"result\":{}}"
echo "last login: never" >&2
printf 'no newline at the end'
`

// LoginShells are the set-ups that break tools which take a remote shell's
// output for their own.
func LoginShells() []LoginShell {
	path := "PATH=\"$HOME/tools/bin:$PATH\"; export PATH\n"
	return []LoginShell{
		{Name: "bash noisy", Dir: "tools/bin", Account: Account{Shell: "/bin/bash", Files: map[string]string{
			".bashrc": noise + path, ".bash_profile": noise + ". ~/.bashrc\n",
		}}},
		{Name: "bash guarded", Dir: "tools/bin", Account: Account{Shell: "/bin/bash", Files: map[string]string{
			// As distributions ship it: nothing below the guard runs unless a person types.
			".bashrc": "case $- in *i*) ;; *) return;; esac\n" + noise + path, ".profile": ". ~/.bashrc\n",
		}}},
		{Name: "bash exec zsh", Dir: "tools/bin", Needs: []string{"zsh"}, Account: Account{Shell: "/bin/bash", Files: map[string]string{
			".bashrc": noise + "exec zsh\n", ".bash_profile": "exec zsh -l\n", ".zshrc": noise + path,
		}}},
		{Name: "zsh path in zshrc", Dir: "tools/bin", Needs: []string{"zsh"}, Account: Account{Shell: "/bin/zsh", Files: map[string]string{
			".zshrc": noise + path,
		}}},
		{Name: "fish", Dir: "tools/bin", Needs: []string{"fish"}, Account: Account{Shell: "/usr/bin/fish", Files: map[string]string{
			".config/fish/config.fish": "echo 'Welcome to fish'\nset -gx PATH $HOME/tools/bin $PATH\n",
		}}},
		{Name: "tcsh", Dir: "tools/bin", Needs: []string{"tcsh"}, Account: Account{Shell: "/bin/tcsh", Files: map[string]string{
			".tcshrc": "echo 'Welcome to tcsh'\nsetenv PATH $HOME/tools/bin:$PATH\n",
		}}},
		{Name: "dash", Dir: "tools/bin", Account: Account{Shell: "/bin/dash", Files: map[string]string{
			".profile": noise + path,
		}}},
	}
}

// EachLoginShell runs f for every set-up, with an account that has it.
func EachLoginShell(t *testing.T, f func(t *testing.T, sh LoginShell, u *User)) {
	t.Helper()
	for _, sh := range LoginShells() {
		t.Run(sh.Name, func(t *testing.T) {
			Need(t, sh.Needs...)
			f(t, sh, NewUser(t, sh.Account))
		})
	}
}
