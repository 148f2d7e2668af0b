# What a login should know of this machine before it begins. Plain POSIX sh; reads
# only. The caller sets tl_m, the marker of the answer; tl_ports, those of a login;
# tl_home, where Codex keeps its credentials, or nothing.
#
# The answer is words: uid=N, managed=yes|no, auth=yes|no|-, and for each port
# PORT=free or PORT=UID/PID/NAME, with - for what cannot be seen.

PATH=${PATH:+$PATH:}/usr/bin:/bin:/usr/sbin:/sbin
export PATH
LC_ALL=C
export LC_ALL
tl_uid=$(id -u)

# listener PORT: "UID INODE" of who listens there, by the kernel's table.
listener() {
tl_hex=$(printf '%04X' "$1")
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r tl_x tl_local tl_x tl_state tl_x tl_x tl_x tl_u tl_x tl_inode tl_x; do
case $tl_local/$tl_state in
*:"$tl_hex"/0A) echo "$tl_u $tl_inode"; break ;;
esac
done
}

# hidden UID: a Codex of that user's. Codex hides its files from all but root.
hidden() {
for tl_p in /proc/[0-9]*; do
read -r tl_c 2>/dev/null <"$tl_p/comm" || continue
case $tl_c in
codex | codex-*) ;;
*) continue ;;
esac
while read -r tl_k tl_x tl_e tl_x; do
[ "$tl_k" = Uid: ] && [ "$tl_e" = "$1" ] && echo "${tl_p#/proc/}/$tl_c"
done 2>/dev/null <"$tl_p/status"
done | head -n 1
}

who() {
if [ -r /proc/net/tcp ]; then
tl_w=$(listener "$1")
[ -n "$tl_w" ] || { echo free; return; }
tl_fd=$(find /proc/[0-9]*/fd -lname "socket:\[${tl_w#* }\]" 2>/dev/null | head -n 1)
tl_pid=${tl_fd#/proc/}
tl_pid=${tl_pid%%/*}
tl_name=
[ -n "$tl_pid" ] && read -r tl_name 2>/dev/null <"/proc/$tl_pid/comm"
[ -n "$tl_pid" ] || { tl_h=$(hidden "${tl_w% *}"); tl_pid=${tl_h%%/*}; tl_name=${tl_h#*/}; }
echo "${tl_w% *}/${tl_pid:--}/${tl_name:--}"
elif command -v lsof >/dev/null 2>&1; then
tl_w=$(lsof -nP -iTCP:"$1" -sTCP:LISTEN -Fpcu 2>/dev/null | head -n 3)
[ -n "$tl_w" ] || { echo free; return; }
echo "$(echo "$tl_w" | sed -n 's/^u//p')/$(echo "$tl_w" | sed -n 's/^p//p')/$(echo "$tl_w" | sed -n 's/^c//p')"
else
echo -/-/-
fi
}

tl_out="uid=$tl_uid"
if [ -e /etc/towline/requirements.toml ]; then tl_out="$tl_out managed=yes"; else tl_out="$tl_out managed=no"; fi
case $tl_home in
'') tl_out="$tl_out auth=-" ;;
*) if [ -f "$tl_home/auth.json" ]; then tl_out="$tl_out auth=yes"; else tl_out="$tl_out auth=no"; fi ;;
esac
for tl_q in $tl_ports; do
tl_out="$tl_out $tl_q=$(who "$tl_q" | tr ' \t\r\n' '____' | cut -c 1-80 | sed 's/_*$//')"
done
printf '%s go %s\n' "$tl_m" "$tl_out"
