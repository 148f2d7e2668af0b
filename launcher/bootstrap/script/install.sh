# Puts a Towline binary beside those that are there and switches to it. The caller
# sets tl_id (the folder), tl_ver, tl_sum (SHA-256, hex), tl_size, tl_gzip (yes:
# what comes is compressed), tl_tag (random), and in fifths of a second tl_tries,
# how long to wait for the lock, and tl_stall, how long its holder may stand
# still. After "send" the channel's input is the binary, to its end.
#
#	FOLDER/versions/VERSION/towline   0700, never changed once there
#	FOLDER/current -> versions/…      switched by renaming a link
#	FOLDER/previous -> versions/…     what Rollback returns to
#	FOLDER/lock, lock.pid             held while something is being changed

say hello "$tl_uid"
tl_said=$(mkdir -p "$tl_id/versions" 2>&1) || fail mkdir "$tl_said"
mine "$tl_id" && mine "$tl_id/versions" || fail open "$tl_id belongs to somebody else, or others can write to it"
tl_id=$(cd "$tl_id" && pwd -P) || fail mkdir "$tl_id cannot be entered"
exposed "$tl_id" && fail open "$tl_id lies in a folder that others can write to"

# digest FILE: its SHA-256, or nothing when nobody can tell.
digest() {
	{ sha256sum "$1" || shasum -a 256 "$1" || openssl dgst -sha256 -r "$1" || "$1" version --checksum; } 2>/dev/null |
		sed -n '1s/^\\*\([0-9a-f]\{64\}\).*/\1/p'
}

# growing: how much of the newest upload is there.
growing() { find "$tl_id/versions" -name '.upload.*' -type f -exec wc -c {} \; 2>/dev/null | awk '{ n += $1 } END { print n + 0 }'; }

# waiting is told to the client. A holder whose upload has stood still for long
# sits behind a dead link: its channel may take hours to close. It is ended.
tl_last=
tl_still=0
waiting() {
	tl_now=$(growing)
	if [ "$tl_now" = "$tl_last" ]; then tl_still=$((tl_still + 1)); else tl_still=0; fi
	tl_last=$tl_now
	say wait "$tl_now"
	if [ "$tl_still" -ge "$tl_stall" ]; then
		tl_still=0
		read -r tl_h tl_p <"$tl_id/lock.pid" 2>/dev/null
		if [ "$tl_h" = "$tl_host" ] && [ -n "$tl_p" ] && [ "$tl_p" != $$ ]; then kill -9 "$tl_p" 2>/dev/null; fi
	fi
}
lock "$tl_id/lock" "$tl_tries" || fail lock "$tl_id/lock"
rm -f "$tl_id"/versions/*/.upload.* "$tl_id"/.link.* # of those who died

tl_dir=versions/$tl_ver
if [ -e "$tl_id/$tl_dir/towline" ] && [ "$(digest "$tl_id/$tl_dir/towline")" != "$tl_sum" ]; then
	tl_dir=$tl_dir-$(printf %s "$tl_sum" | cut -c 1-8) # another build of that version
fi
tl_bin=$tl_id/$tl_dir/towline
if [ -e "$tl_bin" ] && [ "$(digest "$tl_bin")" = "$tl_sum" ]; then
	say have "$tl_bin"
else
	tl_said=$(mkdir -p "$tl_id/$tl_dir" 2>&1) || fail mkdir "$tl_said"
	tl_tmp=$tl_id/$tl_dir/.upload.$tl_tag
	if [ "$tl_gzip" = yes ]; then tl_cat='gzip -dc'; else tl_cat='cat'; fi
	say send "$tl_bin"
	tl_said=$( ($tl_cat >"$tl_tmp") 2>&1 9>&-)
	tl_n=$(wc -c <"$tl_tmp" 2>/dev/null | tr -d ' ')
	if [ "${tl_n:-0}" != "$tl_size" ]; then
		rm -f "$tl_tmp"
		rmdir "$tl_id/$tl_dir" 2>/dev/null
		fail write "${tl_n:-0} $tl_tmp: ${tl_said:-the upload ended early}"
	fi
	chmod 700 "$tl_tmp"
	tl_is=$(digest "$tl_tmp")
	if [ -z "$tl_is" ]; then
		say unchecked yes # no tool for it, and the binary does not run: told below
	elif [ "$tl_is" != "$tl_sum" ]; then
		rm -f "$tl_tmp"
		rmdir "$tl_id/$tl_dir" 2>/dev/null
		fail checksum "$tl_is"
	fi
	tl_said=$(mv -f "$tl_tmp" "$tl_bin" 2>&1) || fail write "$tl_said"
	say stored "$tl_bin"
fi

tl_out=$(within 20 "$tl_bin" version --json 2>&1 9>&-)
tl_r=$?
if [ $tl_r -ne 0 ]; then
	rm -f "$tl_bin"
	rmdir "$tl_id/$tl_dir" 2>/dev/null
	fail run "$tl_r $(printf '%s\n' "$tl_out" | short 400)"
fi
say version "$(printf '%s\n' "$tl_out" | short 1000)"

# point NAME TARGET: switches a link in one step.
point() {
	ln -s "$2" "$tl_id/.link.$tl_tag" && mv -f "$tl_id/.link.$tl_tag" "$tl_id/$1"
}
tl_old=$(readlink "$tl_id/current" 2>/dev/null)
if [ "$tl_old" != "$tl_dir/towline" ]; then
	case $tl_old in
	versions/*/towline) [ -x "$tl_id/$tl_old" ] && tl_said=$(point previous "$tl_old" 2>&1) ;;
	esac
	tl_said=$(point current "$tl_dir/towline" 2>&1) || fail write "$tl_said"
fi

# What nobody uses goes. Where it cannot be told what runs, nothing does.
tl_keep=$(readlink "$tl_id/previous" 2>/dev/null)
if [ -d /proc/self ]; then
	# shellcheck disable=SC2012 # find cannot tell targets
	tl_runs=$(ls -l /proc/[0-9]*/exe 2>/dev/null)
else
	tl_runs=$(ps -axww -o args= 2>/dev/null)
fi
if [ -n "$tl_runs" ]; then
	for tl_v in "$tl_id"/versions/*; do
		case ${tl_v#"$tl_id/"}/towline in
		"$tl_dir/towline" | "$tl_keep") continue ;;
		esac
		case $tl_runs in *"$tl_v/towline"*) continue ;; esac
		rm -rf "$tl_v" && say pruned "${tl_v##*/}"
	done
fi
say installed "$tl_bin"
unlock
say bye
exit 0
