%%% Accounts of the instance's own domain, for roost_control.
%%%
%%% A disabled account keeps its row in ejabberd's table of users, with a key that no password has; the true one
%%% waits in a table of ours, roost_disabled, in the same database.
-module(roost_accounts).

-export([create/1, set_password/1, set_enabled/1, delete/1, list/1, init/1]).

-include_lib("p1_xmpp/include/scram.hrl").

%% Called by mod_roost at the start.
init(Host) ->
    {updated, _} = ejabberd_sql:sql_query(Host, [
        "CREATE TABLE IF NOT EXISTS roost_disabled (username text PRIMARY KEY, password text NOT NULL,"
        " serverkey text NOT NULL, salt text NOT NULL, iterationcount integer NOT NULL)"]),
    ok.

create(#{<<"password">> := Password} = Arguments) ->
    User = user(Arguments),
    case ejabberd_auth:try_register(User, host(), Password) of
        ok -> true;
        {error, exists} -> false;
        {error, Reason} -> refuse("the account was not made: ~p", [Reason])
    end.

set_password(#{<<"password">> := Password} = Arguments) ->
    User = existing(Arguments),
    case is_disabled(User) of
        true ->
            keep_for_later(User, Password);
        false ->
            case ejabberd_auth:set_password(User, host(), Password) of
                ok -> true;
                {error, Reason} -> refuse("the password was not set: ~p", [Reason])
            end
    end.

keep_for_later(User, Password) ->
    #scram{hash = sha256, storedkey = Stored, serverkey = Server, salt = Salt, iterationcount = Count} =
        ejabberd_auth:password_to_scram(host(), Password),
    {atomic, _} = ejabberd_sql:sql_transaction(host(), fun() ->
        ejabberd_sql:sql_query_t(
            ["UPDATE roost_disabled SET password=", text(<<"sha256:", Stored/binary>>), ", serverkey=", text(Server),
             ", salt=", text(Salt), ", iterationcount=", integer_to_list(Count), " WHERE username=", text(User)])
    end),
    true.

set_enabled(#{<<"enabled">> := Enabled} = Arguments) ->
    User = existing(Arguments),
    case {Enabled, is_disabled(User)} of
        {false, true} -> ok;
        {false, false} -> disable(User);
        {true, true} -> enable(User);
        {true, false} -> ok
    end,
    case Enabled of
        false -> ejabberd_sm:kick_user(User, host());
        true -> ok
    end,
    true.

disable(User) ->
    Nobody = fun() -> text(base64:encode(crypto:strong_rand_bytes(32))) end,
    Key = base64:encode(crypto:strong_rand_bytes(32)),
    {atomic, _} = ejabberd_sql:sql_transaction(host(), fun() ->
        ejabberd_sql:sql_query_t(
            ["INSERT INTO roost_disabled SELECT username, password, serverkey, salt, iterationcount FROM users"
             " WHERE username=", text(User)]),
        ejabberd_sql:sql_query_t(
            ["UPDATE users SET password=", text(<<"sha256:", Key/binary>>), ", serverkey=", Nobody(), ", salt=",
             Nobody(), " WHERE username=", text(User)])
    end).

enable(User) ->
    {atomic, _} = ejabberd_sql:sql_transaction(host(), fun() ->
        ejabberd_sql:sql_query_t(
            ["UPDATE users SET (password, serverkey, salt, iterationcount) ="
             " (SELECT password, serverkey, salt, iterationcount FROM roost_disabled d WHERE d.username=", text(User),
             ") WHERE username=", text(User)]),
        ejabberd_sql:sql_query_t(["DELETE FROM roost_disabled WHERE username=", text(User)])
    end).

delete(Arguments) ->
    User = user(Arguments),
    case ejabberd_auth:user_exists(User, host()) of
        false ->
            false;
        true ->
            ejabberd_sm:kick_user(User, host()),
            ok = ejabberd_auth:remove_user(User, host()),
            {updated, _} = ejabberd_sql:sql_query(host(), ["DELETE FROM roost_disabled WHERE username=", text(User)]),
            true
    end.

list(_) ->
    Probe = gen_mod:get_module_opt(host(), mod_roost, probe_account),
    Disabled = maps:from_list([{U, true} || [U] <- rows("SELECT username FROM roost_disabled")]),
    Seen = maps:from_list([{U, binary_to_integer(S)} || [U, S] <- rows("SELECT username, seconds FROM last")]),
    Online = maps:from_list([{U, true} || {U, _, _} <- ejabberd_sm:get_vh_session_list(host())]),
    [#{username => U,
       enabled => not maps:is_key(U, Disabled),
       online => maps:is_key(U, Online),
       last_active => maps:get(U, Seen, null)}
     || [U] <- rows("SELECT username FROM users"), U =/= Probe].

is_disabled(User) ->
    rows(["SELECT username FROM roost_disabled WHERE username=", text(User)]) =/= [].

rows(Query) ->
    {selected, _, Rows} = ejabberd_sql:sql_query(host(), Query),
    Rows.

text(Binary) ->
    [$', binary:replace(Binary, <<"'">>, <<"''">>, [global]), $'].

host() ->
    ejabberd_config:get_myname().

user(#{<<"username">> := Name}) ->
    case jid:nodeprep(Name) of
        Name when Name =/= <<>> -> Name;
        _ -> throw({invalid, <<"ejabberd would change or refuse the name ", Name/binary>>})
    end.

existing(Arguments) ->
    User = user(Arguments),
    case ejabberd_auth:user_exists(User, host()) of
        true -> User;
        false -> refuse("there is no account ~ts", [User])
    end.

refuse(Format, Values) ->
    throw({refused, unicode:characters_to_binary(io_lib:format(Format, Values))}).
