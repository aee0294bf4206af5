#!/bin/bash
# A tour of the API: an organisation's whole life, from the first call to the last trace of it.
#
#     docs/tour.sh                   against the stack that `./roost up` started (as root or with sudo)
#     API=… TOKEN=… docs/tour.sh     against any other
#
# It prints each call and what came back, checks each step, and stops at the first that is not as it should be.
# Other settings: SLUG (the organisation; a name that was there once is never given again), ZONE (the provider's zone), ENGINE (prosody or ejabberd), PLAN, and
# CLIENT (how go-sendxmpp is run). What can be seen only on the machine itself (the process, its user, its files) is
# looked at if the stack runs here.
set -u -o pipefail
umask 077

here=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd) || exit 1
state=$here/${ROOST_VAR:-var}
SLUG=${SLUG:-initech-$(date +%y%m%d-%H%M%S)} ENGINE=${ENGINE:-prosody} PLAN=${PLAN:-standard} ZONE=${ZONE:-roost.example}
DOMAIN=$SLUG.$ZONE
local_stack=
if [ -z "${API:-}" ] && [ -r "$state/secrets" ]; then
    local_stack=yes
    net=127.$(cat "$state/net").0
    API=http://$net.1:8000/api/v1
    TOKEN=${TOKEN:-$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["token"])' "$state/secrets")}
    CLIENT=${CLIENT:-"env -u SUDO_USER $here/roost run go-sendxmpp"}
fi
CLIENT=${CLIENT:-go-sendxmpp}
if [ -z "${API:-}" ] || [ -z "${TOKEN:-}" ]; then
    echo "tour: run ./roost up first (and this as root), or say API=https://…/api/v1 TOKEN=…" >&2
    exit 2
fi
private=$(mktemp -d) || exit 1
trap 'rm -rf "$private"' EXIT
printf 'Authorization: Bearer %s\nContent-Type: application/json\n' "$TOKEN" >"$private/headers"

# --- how it speaks ---------------------------------------------------------------------------------------------------

step() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
note() { printf '    %s\n' "$*"; }
good() { printf '  ✓ %s\n' "$*"; }
bad() {
    printf '  ✗ %s\n' "$*" >&2
    exit 1
}
# check WHAT COMMAND…: the command has to succeed. refuse WHAT COMMAND…: it has to fail.
check() { if "${@:2}"; then good "$1"; else cat "$private"/*.said >&2; bad "$1: that is not so"; fi; }
refuse() { if "${@:2}"; then bad "$1: that is not so"; else good "$1"; fi; }

# call EXPECTED-STATUS METHOD PATH [BODY]: one request; its body is then in $body. Passwords are not shown.
call() {
    local data=()
    printf '  > %s %s %s\n' "$2" "/$3" "${4:-}"
    [ $# -gt 3 ] && data=(--data "$4")
    body=$(curl -sS --noproxy '*' --max-time 60 -X "$2" -H "@$private/headers" ${data[@]+"${data[@]}"} \
        -w '\n%{http_code}' "$API/$3") || bad "no answer from $API"
    status=${body##*$'\n'} body=${body%$'\n'*}
    printf '  < %s %s\n' "$status" "$(printf '%s' "$body" | sed 's/"password": *"[^"]*"/"password":"…"/g' | cut -c 1-200)"
    [ "$status" = "$1" ] || bad "the answer should have been $1"
}

# get EXPRESSION: a Python expression over the last answer, which is called b.
get() { printf '%s' "$body" | python3 -c 'import json, sys; b = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }
is() { [ "$(get "$1")" = "$2" ]; }

# follow UNTIL: print the instance's events as they come (long poll), up to the one that begins with UNTIL.
cursor=
follow() {
    local deadline=$((SECONDS + 300))
    while [ "$SECONDS" -lt "$deadline" ]; do
        body=$(curl -sS --noproxy '*' --max-time 60 -H "@$private/headers" \
            "$API/instances/$key/events/?after=$cursor&wait=20") || bad "no answer from $API"
        cursor=$(get 'b["cursor"]')
        get '"\n".join("    %s  %-26s %s" % (e["at"][11:19], e["type"], e["message"][:100]) for e in b["events"])' | grep .
        is "any(e['type'].startswith('$1') for e in b['events'])" True && return 0
    done
    return 1
}

# login JID PASSWORD TO: an unmodified client finds the server, checks its certificate, logs in and sends a message.
login() {
    printf 'username: %s\npassword: %s\n' "$1" "$2" >"$private/client"
    printf 'Hello from the tour' | $CLIENT -f "$private/client" "$3" >"$private/client.said" 2>&1
}

# srv NAME: how many SRV records there are (asked of the demo's name server).
srv() {
    python3 - "$net.54" "$1" <<'PYTHON'
import socket, struct, sys
server, name = sys.argv[1:]
labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(5)
    s.sendto(struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 33, 1), (server, 53))
    print(struct.unpack(">HHHHHH", s.recv(4096)[:12])[3])
PYTHON
}
has_srv() { [ "$(srv "_xmpp-client._tcp.$DOMAIN")" -gt 0 ]; }
serves_tls() { openssl s_client -connect "$net.1:443" -servername "$DOMAIN" </dev/null 2>/dev/null | grep -q 'BEGIN CERTIFICATE'; }
relays() { # an allocation with the tenant's TURN credentials (no peer answers; that is not the question)
    timeout 3 turnutils_uclient -c -n 1 -m 1 -u "$turn_user" -w "$turn_password" -e "$net.4" "$net.4" >"$private/relay.said" 2>&1
    grep -q start_mclient "$private/relay.said"
}
has_user() { getent passwd "r-$key" >/dev/null; }
has_process() { pgrep -u "r-$key" >/dev/null 2>&1; }
has_files() { [ -e "$state/node/instances/$key" ]; }

# --- the tour --------------------------------------------------------------------------------------------------------

step "1. An organisation, and the server that it wants"
call 201 POST organisations/ "{\"slug\": \"$SLUG\", \"name\": \"Initech Ltd\", \"external_id\": \"customer-4711\"}"
call 202 POST "organisations/$SLUG/instances/" "{\"domain\": \"$DOMAIN\", \"engine\": \"$ENGINE\", \"plan\": \"$PLAN\"}"
key=$(get 'b["key"]')
note "202: it is wanted, not yet there. Its key is $key; we watch it at instances/$key/."

step "2. It becomes Ready (the last condition is set by a client's walk through it, from outside)"
check "it is Ready" follow Ready=True
call 200 GET "instances/$key/"
check "each condition is true" is 'all(c["status"] == "True" for c in b["conditions"])' True
call 200 GET "instances/$key/certificate/"
note "certificate: $(get 'b["serial"]') for $(get '", ".join(b["issued_names"])')"
call 200 GET "instances/$key/dns/"
check "all $(get 'len(b)') of its DNS record sets are published" is 'all(r["published"] or r["optional"] for r in b)' True

step "3. Members and a room"
call 201 POST "instances/$key/accounts/" '{"username": "peter"}'
peter=$(get 'b["password"]')
call 201 POST "instances/$key/accounts/" '{"username": "milton"}'
milton=$(get 'b["password"]')
call 201 POST "instances/$key/rooms/" "{\"name\": \"staplers\", \"owner\": \"peter@$DOMAIN\", \"title\": \"Staplers\", \"access\": \"members\", \"language\": \"en\"}"
call 200 PUT "instances/$key/rooms/staplers/affiliations/milton@$DOMAIN/" '{"affiliation": "member"}'
check "milton may enter the room" is "b['affiliations']['milton@$DOMAIN']" member
check "peter logs in with an unmodified client and writes to milton" login "peter@$DOMAIN" "$peter" "milton@$DOMAIN"
call 200 POST "instances/$key/turn/credentials/" '{"ttl_s": 600}'
turn_user=$(get 'b["username"]') turn_password=$(get 'b["password"]')
if [ -n "$local_stack" ]; then
    check "the DNS has SRV records for $DOMAIN" has_srv
    check "the edge leads to a server with a certificate for it" serves_tls
    check "the TURN server gives a relay to the tenant's credentials" relays
    check "the engine is a process of its own unix user, r-$key" has_process
fi

step "4. Not paid: suspended. Logins are refused, the data is kept"
call 202 POST "instances/$key/suspend/" '{"reason": "unpaid"}'
check "it is suspended" follow Ready=False
call 200 GET "instances/$key/"
check "it says why" is 'b["suspended_reason"]' unpaid
sleep 2
refuse "peter cannot log in" login "peter@$DOMAIN" "$peter" "milton@$DOMAIN"
if [ -n "$local_stack" ]; then
    check "its files are still there" has_files
    check "so are its DNS records" has_srv
fi

step "5. Paid: it runs again, and nothing was lost"
call 202 POST "instances/$key/unsuspend/"
check "it is Ready" follow Ready=True
check "milton logs in with the password from before" login "milton@$DOMAIN" "$milton" "peter@$DOMAIN"
call 200 GET "instances/$key/rooms/staplers/"
check "the room has its settings and members" is "(b['title'], b['access'], b['affiliations']['milton@$DOMAIN'])" "('Staplers', 'members', 'member')"
call 200 GET "instances/$key/usage/"
check "usage counts for the bill" is '(b["accounts"], b["rooms"])' "(2, 1)"

step "6. The customer leaves: terminated, without the usual time of grace"
call 202 POST "instances/$key/terminate/" '{"grace_s": 0}'
check "it is gone" follow Deleted
call 404 GET "instances/$key/"
refuse "peter cannot log in" login "peter@$DOMAIN" "$peter" "milton@$DOMAIN"
if [ -n "$local_stack" ]; then
    refuse "no SRV record is left" has_srv
    refuse "the edge leads nowhere, and no certificate is served" serves_tls
    refuse "the TURN server refuses the tenant's credentials" relays
    refuse "no process is left" has_process
    refuse "no unix user is left" has_user
    refuse "no file is left" has_files
fi
call 204 DELETE "organisations/$SLUG/"

step "7. Who did what: the audit stays"
call 200 GET "audit/?organisation=$SLUG&limit=100"
get '"\n".join("    %s  %-26s by %-28s %s" % (e["at"][11:19], e["action"], e["actor"], e["summary"]) for e in reversed(b["results"]))'
for action in organisation.create instance.create account.create room.create instance.suspend instance.unsuspend \
    instance.terminate instance.delete organisation.delete; do
    check "the audit tells of $action" is "'$action' in {e['action'] for e in b['results']}" True
done
printf '\nThat was all of it.\n'
