# What machine this is and what is on it. Writes nothing. The caller sets tl_id
# and tl_pin, the install folder and the program as the person gave them or
# nothing, and the seconds tl_envt, tl_itemt and tl_bint that the environment,
# facts and programs may take.

say hello "$tl_uid"
say time "$(date +%s)"
say os "$(uname -s)"
say machine "$(uname -m)"
say kernel "$(uname -sr)"
say host "$tl_host"
say user "$(id -un 2>/dev/null || echo "$tl_uid")"
if [ -z "${SHELL-}" ]; then
	SHELL=$( (getent passwd "$tl_uid" || grep "^[^:]*:[^:]*:$tl_uid:" /etc/passwd) 2>/dev/null | head -n 1 | cut -d: -f7)
fi
say home "$tl_home"
say shell "$SHELL"

# ask NAME COMMAND...: a question, put beside the others. What it says counts
# until the relay's deadline, and one that hangs holds up nobody.
tl_asked=0
ask() {
	tl_asked=$((tl_asked + 1))
	tl_name=$1
	shift
	(
		"$@"
		say end "$tl_name"
	) &
	say begin "$tl_name" "$!"
}

# asked SECONDS: all questions are put, and have that long.
asked() {
	alarm "$1" "$tl_m deadline" 0
	say clock "$tl_alarm"
	say all "$tl_asked"
}

# relay: passes answers on until all questions are answered or time is up; those
# that are not are ended and named.
relay() {
	tl_clock=
	tl_begun=
	tl_ended=' '
	tl_all=
	tl_n=0
	while IFS= read -r tl_line; do
		case $tl_line in
		"$tl_m begin "*) # NAME PID
			tl_q=${tl_line#"$tl_m begin "}
			tl_begun="$tl_begun ${tl_q% *}/${tl_q##* }"
			;;
		"$tl_m end "*)
			tl_n=$((tl_n + 1))
			tl_ended="$tl_ended${tl_line##* } "
			;;
		"$tl_m clock "*) tl_clock=${tl_line##* } ;;
		"$tl_m all "*) tl_all=${tl_line##* } ;;
		"$tl_m deadline") break ;;
		esac
		printf '%s\n' "$tl_line"
		[ "$tl_n" = "$tl_all" ] && break
	done
	[ -n "$tl_clock" ] && stop "$tl_clock"
	for tl_q in $tl_begun; do
		case $tl_ended in
		*" ${tl_q%/*} "*) ;;
		*)
			stop "${tl_q##*/}"
			say late "${tl_q%/*}"
			;;
		esac
	done
}

# --- facts

ask_disk() { # FOLDER KEY: where it lies, and how that is mounted
	tl_d=$1
	while [ ! -d "$tl_d" ] && [ "$tl_d" != / ] && [ -n "$tl_d" ]; do tl_d=$(dirname "$tl_d"); done
	if [ -w "$tl_d" ]; then say "$2.writable" yes; else say "$2.writable" no; fi
	df -Pk "$tl_d" 2>/dev/null | tail -n 1 | {
		read -r _ _ _ tl_free _ tl_mount
		say "$2.free" "$tl_free"
		if [ -r /proc/self/mounts ]; then
			tl_opts=
			while read -r _ tl_at _ tl_o _; do
				[ "$tl_at" = "$tl_mount" ] && tl_opts=$tl_o
			done </proc/self/mounts
		else
			tl_opts=$(mount | grep -F " on $tl_mount (" | tail -n 1 | sed 's/.*(//; s/)$//; s/ //g')
		fi
		case ,$tl_opts, in
		*,noexec,*) say "$2.noexec" yes ;;
		esac
	}
}

ask_home() { if [ -w "$tl_home" ]; then say home.writable yes; else say home.writable no; fi; }

ask_linger() {
	[ -d /run/systemd/system ] && say systemd yes
	if [ -d /var/lib/systemd/linger ] || [ -d /run/systemd/system ]; then
		if [ -e "/var/lib/systemd/linger/$(id -un)" ]; then say linger yes; else say linger no; fi
	fi
	case $(cat /etc/systemd/logind.conf /etc/systemd/logind.conf.d/*.conf 2>/dev/null | grep '^KillUserProcesses=' | tail -n 1) in
	*=yes | *=true | *=1 | *=on) say kills yes ;;
	esac
}

ask_sandbox() {
	if [ -r /sys/kernel/security/lsm ]; then
		case ,$(cat /sys/kernel/security/lsm), in
		*,landlock,*) say landlock yes ;;
		*) say landlock no ;;
		esac
	fi
	if have unshare; then
		if within 3 unshare -U true >/dev/null 2>&1; then say userns yes; else say userns no; fi
	elif [ "$(cat /proc/sys/user/max_user_namespaces 2>/dev/null)" = 0 ]; then
		say userns no
	fi
	tl_b=$(command -v bwrap) && say bwrap "$tl_b"
}

ask_port() { # PORT HEX
	if [ -r /proc/net/tcp ]; then
		if cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q "^ *[0-9]*: [0-9A-F]*:$2 [0-9A-F]*:0000 0A "; then
			say port "$1" in use
		else
			say port "$1" free
		fi
	elif have netstat; then
		if within 3 netstat -an | grep -q "[.:]$1 .*LISTEN"; then say port "$1" in use; else say port "$1" free; fi
	fi
}

ask_tools() {
	for tl_t in setsid nohup flock gzip sha256sum shasum openssl git; do
		have "$tl_t" && say tool "$tl_t"
	done
}

# --- programs

# program PATH KIND FROM: one that can be run, and what it says of itself. One
# whose interpreter lies beside it finds it there.
program() {
	[ -f "$1" ] && [ -x "$1" ] || return 0
	# What is on nobody's PATH is only run when nobody else put it there.
	if [ "$3" = well-known ]; then trusted "$1" && trusted "${1%/*}" || return 0; fi
	tl_i=$((tl_i + 1))
	tl_bin=$tl_name.$tl_i
	say bin "$tl_bin" "$2" "$3" "$1"
	tl_real=$(readlink -f "$1" 2>/dev/null) && say real "$tl_bin" "$tl_real"
	tl_v=
	if [ "$2" = towline ]; then
		tl_v=$(PATH=${1%/*}:$tl_path && within "$tl_bint" "$1" version --json 2>/dev/null | (PATH=$tl_tools && short 1000))
	fi
	if [ -z "$tl_v" ]; then
		tl_v=$(PATH=${1%/*}:$tl_path && within "$tl_bint" "$1" --version 2>&1 | (PATH=$tl_tools && tail -n 3 | short 300))
	fi
	say version "$tl_bin" "$tl_v"
}

folder() { # FOLDER FROM
	tl_i=0
	program "$1/towline" towline "$2"
	program "$1/codex" codex "$2"
}

nodes() { # FOLDER: one that holds versions of node
	tl_i=0
	for tl_f in "$1"/*/bin; do
		[ -d "$tl_f" ] || continue
		program "$tl_f/towline" towline well-known
		program "$tl_f/codex" codex well-known
	done
}

pinned() {
	tl_i=0
	case $tl_pin in
	'~/'*) tl_pin=$tl_home/${tl_pin#'~/'} ;;
	esac
	case ${tl_pin##*/} in
	*codex*) program "$tl_pin" codex pinned ;;
	*) program "$tl_pin" towline pinned ;;
	esac
}

installed() {
	tl_i=0
	mine "$tl_id" && ! exposed "$tl_id" || return 0
	for tl_l in current previous; do
		tl_t=$(readlink "$tl_id/$tl_l" 2>/dev/null) || continue
		case $tl_t in
		versions/*/towline) ;;
		*) continue ;;
		esac
		if [ "$tl_l" = current ]; then
			program "$tl_id/$tl_t" towline installed
		elif [ -x "$tl_id/$tl_t" ]; then
			program "$tl_id/$tl_t" towline previous
		fi
	done
}

# sock KIND PATH: a daemon's, and the program it runs.
sock() {
	socket "$2" && listening "$2" || return 0
	say sock "$tl_name" "$1" "$2"
	[ "$1" = towline ] && [ -n "$tl_inode" ] || return 0
	tl_i=0
	tl_fd=$(find /proc/[0-9]*/fd -user "$tl_uid" -lname "socket:\[$tl_inode\]" 2>/dev/null | head -n 1)
	[ -n "$tl_fd" ] || return 0
	tl_exe=${tl_fd%/fd/*}/exe
	tl_t=$(readlink "$tl_exe" 2>/dev/null)
	case $tl_t in
	*/towline) program "$tl_t" towline running ;;
	*'/towline (deleted)') program "$tl_exe" towline running ;;
	esac
}

# --- all of it

{
	{
		ask home ask_home
		ask tmp ask_disk "${TMPDIR:-/tmp}" tmp
		ask linger ask_linger
		ask sandbox ask_sandbox
		ask port1455 ask_port 1455 05AF
		ask port1457 ask_port 1457 05B1
		ask tools ask_tools
		asked "$tl_itemt"
	} | relay
} </dev/null 2>/dev/null &
tl_facts=$!

say begin environment 0
capture "$tl_envt"
say env.from "$tl_from"
[ -n "$tl_why" ] && say env.note "$(printf '%s\n' "$tl_why" | short 600)"
say end environment

# What follows runs in the user's environment, in a shell of its own: one that
# cannot live with that environment takes nobody along.
(
	load
	(PATH=$tl_path; command -v mkdir && command -v uname) >/dev/null 2>&1 || say path.broken yes
	for tl_e in http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY \
		CODEX_HOME TOWLINE_HOME XDG_RUNTIME_DIR XDG_STATE_HOME XDG_DATA_HOME XDG_CONFIG_HOME \
		NVM_DIR NVM_BIN ASDF_DIR ASDF_DATA_DIR LANG LC_ALL TMPDIR; do
		eval "tl_x=\${$tl_e-}"
		[ -n "$tl_x" ] && say env "$tl_e" "$(printf '%s\n' "$tl_x" | short 2000)"
	done

	case $tl_id in
	'') tl_id=${XDG_DATA_HOME:-$tl_home/.local/share}/towline ;;
	'~') tl_id=$tl_home ;;
	'~/'*) tl_id=$tl_home/${tl_id#'~/'} ;;
	/*) ;;
	*) tl_id=$tl_home/$tl_id ;;
	esac
	say install.dir "$tl_id"
	tl_state=${XDG_STATE_HOME:-$tl_home/.local/state}/towline
	say state.dir "$tl_state"

	{
		ask disk ask_disk "$tl_id" install
		[ -z "$tl_pin" ] || ask pinned pinned
		ask installed installed

		set -f
		tl_ifs=$IFS
		IFS=:
		# shellcheck disable=SC2086 # split at colons
		set -- $tl_path
		IFS=$tl_ifs
		set +f
		tl_seen=:
		tl_num=0
		for tl_d in "$@"; do
			say path "$tl_d"
			case $tl_d in
			/*) ;;
			*) continue ;; # means another folder wherever one is
			esac
			case $tl_seen in *":$tl_d:"*) continue ;; esac
			tl_seen=$tl_seen$tl_d:
			tl_num=$((tl_num + 1))
			say searched "$tl_d"
			ask "path.$tl_num" folder "$tl_d" PATH
		done
		# Some start files only run for what sshd starts, and only they know the
		# folder: bash's .bashrc without a .profile that reads it.
		IFS=:
		# shellcheck disable=SC2086 # split at colons
		set -- $tl_path0
		IFS=$tl_ifs
		for tl_d in "$@"; do
			case $tl_d:$tl_seen in
			[!/]*) continue ;;
			*":$tl_d:"*) continue ;;
			esac
			tl_seen=$tl_seen$tl_d:
			tl_num=$((tl_num + 1))
			say searched "$tl_d"
			ask "path.$tl_num" folder "$tl_d" PATH
		done
		for tl_d in "$tl_home/.local/bin" "$tl_home/bin" "$tl_home/.npm-global/bin" "$tl_home/.npm-packages/bin" \
			"$tl_home/.yarn/bin" "$tl_home/.bun/bin" "$tl_home/.volta/bin" "$tl_home/.asdf/shims" \
			"$tl_home/.local/share/mise/shims" "$tl_home/.local/share/pnpm" "$tl_home/.cargo/bin" "$tl_home/go/bin" \
			"$tl_home/.nix-profile/bin" /usr/local/bin /opt/homebrew/bin /home/linuxbrew/.linuxbrew/bin /snap/bin \
			/usr/bin /run/current-system/sw/bin; do
			case $tl_seen in *":$tl_d:"*) continue ;; esac
			tl_seen=$tl_seen$tl_d:
			tl_num=$((tl_num + 1))
			say searched "$tl_d"
			ask "known.$tl_num" folder "$tl_d" well-known
		done
		for tl_d in "${NVM_DIR:-$tl_home/.nvm}/versions/node" "$tl_home/.local/share/mise/installs/node" "$tl_home/.asdf/installs/nodejs" "$tl_home/.nodenv/versions"; do
			tl_num=$((tl_num + 1))
			say searched "$tl_d/*/bin"
			ask "known.$tl_num" nodes "$tl_d"
		done

		tl_num=0
		for tl_d in "${TOWLINE_HOME:+$TOWLINE_HOME/run}" "${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/towline}" "/run/user/$tl_uid/towline" "$tl_state/run"; do
			[ -n "$tl_d" ] || continue
			tl_num=$((tl_num + 1))
			ask "socket.$tl_num" sock towline "$tl_d/towline.sock"
		done
		ask socket.codex sock codex "${CODEX_HOME:-$tl_home/.codex}/app-server-control/app-server-control.sock"
		ask socket.private sock private "$tl_state/run/codex-$tl_host.sock"
		asked "$tl_bint"
	} 2>/dev/null </dev/null | relay
) </dev/null
wait "$tl_facts"
say bye
