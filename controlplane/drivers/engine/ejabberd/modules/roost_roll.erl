%%% All members and rooms that are kept, for roost_control; Roost compares them after a restart.
%%%
%%% Members are read in portions, so that nobody waits long for the database's one connection. Who knows the digest
%%% already is not told everything again.
-module(roost_roll).

-export([roll/1]).

-define(PORTION, 200).
%% With other digests, what is before the colon has to change: what was kept by an older version is no loss then.
-define(KIND, "e1:").
%% Rooms that Roost's checks make and destroy.
-define(CHECKS, "roost-check-").

roll(#{<<"known">> := Known}) ->
    Rooms = maps:from_list([{Name, Room} || Name <- roost_rooms:names(), not is_check(Name),
                                            (Room = roost_rooms:whole(Name)) =/= none]),
    Members = maps:from_list(members(users())),
    Digest = digest({Rooms, Members}, 24),
    {Uptime, _} = statistics(wall_clock),
    Told = #{digest => Digest, uptime_s => Uptime / 1000, same => Digest =:= Known},
    case Digest of
        Known -> Told;
        _ -> Told#{rooms => Rooms, members => Members}
    end.

is_check(<<?CHECKS, _/binary>>) -> true;
is_check(_) -> false.

digest(Term, Bytes) ->
    <<Start:Bytes/binary, _/binary>> = crypto:hash(sha256, term_to_binary(Term, [deterministic, {minor_version, 2}])),
    <<?KIND, (string:lowercase(binary:encode_hex(Start)))/binary>>.

users() ->
    Probe = gen_mod:get_module_opt(host(), mod_roost, probe_account),
    lists:sort([User || [User] <- rows("SELECT username FROM users"), User =/= Probe]).

members([]) ->
    [];
members(Users) ->
    {Some, Rest} = lists:split(min(?PORTION, length(Users)), Users),
    Names = listed(Some),
    Groups = grouped([{{U, J}, G} || [U, J, G] <-
                         rows(["SELECT username, jid, grp FROM rostergroups WHERE username IN (", Names, ")"])]),
    %% Not those who only asked to be let in: they are no contacts yet.
    Contacts = grouped([{U, {J, Nick, Subscription, lists:sort(maps:get({U, J}, Groups, []))}}
                        || [U, J, Nick, Subscription] <-
                               rows(["SELECT username, jid, nick, subscription FROM rosterusers WHERE NOT"
                                     " (subscription='N' AND ask='I') AND username IN (", Names, ")"])]),
    Private = grouped([{U, {private, Data}} || [U, Data] <-
                          rows(["SELECT username, data FROM private_storage WHERE namespace='storage:bookmarks'"
                                " AND username IN (", Names, ")"])]),
    Published = grouped([{user(Host), {Node, Item, Payload}} || [Host, Node, Item, Payload] <-
                            rows(["SELECT n.host, n.node, i.itemid, i.payload FROM pubsub_node n, pubsub_item i"
                                  " WHERE i.nodeid = n.nodeid"
                                  " AND n.node IN ('storage:bookmarks', 'urn:xmpp:bookmarks:1')"
                                  " AND n.host IN (", listed([<<U/binary, "@", (host())/binary>> || U <- Some]),
                                  ")"])]),
    [member(U, lists:sort(maps:get(U, Contacts, [])),
            lists:sort(maps:get(U, Private, []) ++ maps:get(U, Published, []))) || U <- Some] ++ members(Rest).

member(User, Contacts, Bookmarks) ->
    {User, [length(Contacts), digest(Contacts, 8), bookmarks(Bookmarks), digest(Bookmarks, 8)]}.

%% Old clients' and new clients' are the same bookmarks, kept in up to three places.
bookmarks(Found) ->
    Count = fun(Texts) -> lists:sum([length(binary:matches(T, <<"<conference">>)) || T <- Texts]) end,
    lists:max([Count([T || {private, T} <- Found]) |
               [Count([T || {N, _, T} <- Found, N =:= Node])
                || Node <- [<<"storage:bookmarks">>, <<"urn:xmpp:bookmarks:1">>]]]).

%% #{Key => [Value]}
grouped(Pairs) ->
    lists:foldl(fun({Key, Value}, Found) -> maps:update_with(Key, fun(Old) -> [Value | Old] end, [Value], Found) end,
                #{}, Pairs).

user(Jid) ->
    hd(binary:split(Jid, <<"@">>)).

rows(Query) ->
    {selected, _, Rows} = ejabberd_sql:sql_query(host(), Query),
    Rows.

listed(Binaries) ->
    lists:join($,, [[$', binary:replace(B, <<"'">>, <<"''">>, [global]), $'] || B <- Binaries]).

host() ->
    ejabberd_config:get_myname().
