%%% An instance's data as portable XML, out and in, page by page, for roost_control: this module lists what there is,
%%% counts what an import did, and keeps what ejabberd has no place for.
%%%
%%% Every call reads or writes in short queries, so that sessions never wait long for the database's one connection.
%%% Elements are those of XEP-0227 where it has them. roost_portable_user, _pep, _room and _archive make and read them.
-module(roost_portable).

-export([start/1, stop/1, accounts/1, rooms/1, uploads/1]).
-export([kept/1, keep/3, forget/1, user_removed/2, room_removed/3]).
-export([report/1, rows/1, number/1, write/1, quote/1, listed/1, host/0, rooms_host/0, probe/0]).

-include_lib("kernel/include/file.hrl").

-define(CHECKS, "roost-check-"). % rooms that Roost's checks make and destroy
-define(MOST_REASONS, 1000).
-define(AT_ONCE, 100). % some 10 ms

%% Called by mod_roost at the start. roost_kept: what came with an import and ejabberd cannot hold, to leave again
%% with the next export. archive.roost_id and roost_rest: a message's identifier elsewhere, and more of that kind.
start(Host) ->
    {updated, _} = ejabberd_sql:sql_query(Host, [
        "CREATE TABLE IF NOT EXISTS roost_kept (owner text NOT NULL, what text NOT NULL, xml text NOT NULL,"
        " PRIMARY KEY (owner, what)) WITHOUT ROWID"]),
    {selected, _, Columns} = ejabberd_sql:sql_query(Host, ["SELECT name FROM pragma_table_info('archive')"]),
    [{updated, _} = ejabberd_sql:sql_query(Host, ["ALTER TABLE archive ADD COLUMN ", Name, " text"])
     || Name <- ["roost_id", "roost_rest"], not lists:member([list_to_binary(Name)], Columns)],
    {updated, _} = ejabberd_sql:sql_query(Host, [
        "CREATE INDEX IF NOT EXISTS i_archive_roost_id ON archive (username, roost_id) WHERE roost_id IS NOT NULL"]),
    ejabberd_hooks:add(remove_user, Host, ?MODULE, user_removed, 50),
    ejabberd_hooks:add(remove_room, Host, ?MODULE, room_removed, 50).

stop(Host) ->
    ejabberd_hooks:delete(remove_user, Host, ?MODULE, user_removed, 50),
    ejabberd_hooks:delete(remove_room, Host, ?MODULE, room_removed, 50).

accounts(#{<<"after">> := After, <<"limit">> := Limit}) ->
    [Name || [Name] <- rows(["SELECT username FROM users WHERE username > ", quote(After), " AND username <> ",
                             quote(probe()), " ORDER BY username LIMIT ", integer_to_list(Limit)])].

%% Rooms that are kept. A temporary one is gone when the last one leaves it.
rooms(#{<<"after">> := After, <<"limit">> := Limit}) ->
    [Name || [Name] <- rows(["SELECT name FROM muc_room WHERE host=", quote(rooms_host()), " AND name > ",
                             quote(After), " AND substr(name, 1, ", integer_to_list(length(?CHECKS)), ") <> '",
                             ?CHECKS, "' ORDER BY name LIMIT ", integer_to_list(Limit)])].

%% A file lies at <directory of its user>/<random>/<name>, and the first two of these are its identifier.
uploads(#{<<"after">> := After, <<"limit">> := Limit}) ->
    Root = unicode:characters_to_binary(gen_mod:get_module_opt(host(), mod_roost, uploads)),
    [Last | _] = binary:split(After, <<"/">>),
    Owners = maps:from_list([{str:sha(<<User/binary, "@", (host())/binary>>), <<User/binary, "@", (host())/binary>>}
                             || [User] <- rows("SELECT username FROM users")]),
    taken(Limit, [fun() -> of_user(Root, Directory, After, Owners) end
                  || Directory <- names(Root), Directory >= Last]).

%% As many of the lists' members as are wanted; no list is made in vain.
taken(Limit, [List | Lists]) when Limit > 0 ->
    Some = lists:sublist(List(), Limit),
    Some ++ taken(Limit - length(Some), Lists);
taken(_, _) ->
    [].

of_user(Root, Directory, After, Owners) ->
    [#{id => Id, path => <<Id/binary, "/", Name/binary>>, name => Name, size => Size, at => At, type => <<>>,
       user => maps:get(Directory, Owners, <<>>)}
     || Random <- names(filename:join(Root, Directory)), Id <- [<<Directory/binary, "/", Random/binary>>], Id > After,
        Name <- names(filename:join(Root, Id)),
        {ok, #file_info{type = regular, size = Size, mtime = At}} <-
            [file:read_link_info(filename:join([Root, Id, Name]), [raw, {time, posix}])]].

names(Directory) ->
    case file:list_dir(Directory) of
        {ok, Names} -> lists:sort([B || Name <- Names, B <- [unicode:characters_to_binary(Name)], is_binary(B)]);
        _ -> []
    end.

%%% What ejabberd has no place for. Owners are <<"user:", Name>> and <<"room:", Name>>.

kept(Owner) ->
    [{What, Xml} || [What, Xml] <- rows(["SELECT what, xml FROM roost_kept WHERE owner=", quote(Owner),
                                         " ORDER BY what"])].

keep(Owner, What, Xml) ->
    write([["INSERT OR REPLACE INTO roost_kept (owner, what, xml) VALUES (", quote(Owner), $,, quote(What), $,,
            quote(Xml), ")"]]).

forget(Owner) ->
    write([["DELETE FROM roost_kept WHERE owner=", quote(Owner)]]).

user_removed(User, _Host) ->
    forget(<<"user:", User/binary>>).

room_removed(_Host, Name, _Component) ->
    forget(<<"room:", Name/binary>>).

%%% What an import did. Events: made, changed, {skipped, What, Why}, {refused, What, Why}, and {noted, What, Why} for
%%% what is kept, but has no effect here.

report(Events) ->
    Count = fun(Kind) -> length([E || E <- Events, E =:= Kind orelse is_tuple(E) andalso element(1, E) =:= Kind]) end,
    Refused = [[What, Why] || {Kind, What, Why} <- Events, Kind =/= skipped],
    #{made => Count(made), changed => Count(changed), skipped => Count(skipped),
      refused => lists:sublist(Refused, ?MOST_REASONS)}.

%%% The database.

rows(Query) ->
    {selected, _, Rows} = ejabberd_sql:sql_query(host(), Query),
    Rows.

number(Value) when is_binary(Value) -> binary_to_integer(Value);
number(Value) -> Value.

%% In short transactions, between which others have their turn at the database. Who is killed on the way imports again.
write([]) ->
    ok;
write(Queries) ->
    {Some, Rest} = lists:split(min(?AT_ONCE, length(Queries)), Queries),
    {atomic, _} = ejabberd_sql:sql_transaction(host(), fun() -> [done(ejabberd_sql:sql_query_t(Q)) || Q <- Some] end),
    write(Rest).

done({error, _} = Error) -> throw({aborted, Error});
done(_) -> ok.

quote(Text) ->
    [$', binary:replace(iolist_to_binary(Text), <<"'">>, <<"''">>, [global]), $'].

listed(Texts) ->
    lists:join($,, [quote(Text) || Text <- Texts]).

host() ->
    ejabberd_config:get_myname().

rooms_host() ->
    hd(gen_mod:get_module_opt_hosts(host(), mod_muc)).

probe() ->
    gen_mod:get_module_opt(host(), mod_roost, probe_account).
