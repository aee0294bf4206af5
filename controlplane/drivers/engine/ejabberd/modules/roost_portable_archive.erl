%%% Message archives (XEP-0313) as pages of <result/>, oldest first, for roost_control.
%%%
%%% ejabberd's identifier of a message is its time in microseconds. A message from elsewhere gets a free time at or
%%% after its own; the identifier and the time that it came with are kept in two columns of ours and leave with it.
-module(roost_portable_archive).

-export([export/1, import/1, take_in/3]).

-import(roost_portable, [rows/1, quote/1, number/1, host/0, rooms_host/0]).
-import(roost_portable_xml, [element/3, raw/1, parse/1, named/2, namespace/2, attribute/2, stamp/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").

-define(PAGE_BYTES, 1048576).
-define(PORTION, 100). % rows at once: the largest stanza that clients may send is 256 KiB
-define(SEARCH, 1000).
-define(MUC_USER, <<"http://jabber.org/protocol/muc#user">>).

export(#{<<"cursor">> := Cursor, <<"limit">> := Limit} = Arguments) ->
    {Kind, Owner} = owner(Arguments),
    {Time, Row} = case [binary_to_integer(Part) || Part <- binary:split(Cursor, <<":">>), Part =/= <<>>] of
                      [] -> {-1, -1};
                      [T, R] -> {T, R}
                  end,
    {Items, Next} = page(Kind, Owner, {Time, Row}, Limit, 0, []),
    #{items => Items, next => Next}.

page(_, _, {Time, Row}, 0, _, Items) ->
    {lists:reverse(Items), cursor(Time, Row)};
page(_, _, {Time, Row}, _, Bytes, Items) when Bytes >= ?PAGE_BYTES ->
    {lists:reverse(Items), cursor(Time, Row)};
page(Kind, Owner, {Time, Row}, Limit, Bytes, Items) ->
    Wanted = min(Limit, ?PORTION),
    Rows = rows(["SELECT timestamp, id, peer, coalesce(nick, ''), xml, coalesce(roost_id, ''), coalesce(roost_rest, '')"
                 " FROM archive WHERE username=", quote(Owner), " AND (timestamp, id) > (", integer_to_list(Time), $,,
                 integer_to_list(Row), ") ORDER BY timestamp, id LIMIT ", integer_to_list(Wanted)]),
    Made = [result(Kind, Owner, R) || R <- Rows],
    All = lists:reverse(Made) ++ Items,
    case length(Rows) of
        Wanted ->
            [LastTime, LastRow | _] = lists:last(Rows),
            page(Kind, Owner, {number(LastTime), number(LastRow)}, Limit - Wanted,
                 Bytes + lists:sum([byte_size(M) || M <- Made]), All);
        _ ->
            {lists:reverse(All), <<>>}
    end.

cursor(Time, Row) ->
    iolist_to_binary([integer_to_list(Time), $:, integer_to_list(Row)]).

result(Kind, Owner, [Time, _, Peer, Nick, Xml, Elsewhere, RestXml]) ->
    Rest = case RestXml of <<>> -> #xmlel{name = <<"rest">>}; _ -> element(2, parse(RestXml)) end,
    Id = case Elsewhere of <<>> -> integer_to_binary(number(Time)); _ -> Elsewhere end,
    Stamp = case attribute(<<"stamp">>, Rest) of <<>> -> stamp(number(Time)); Given -> Given end,
    Message = case Kind of
                  user -> of_client(Xml);
                  room -> in_room(Owner, Nick, Peer, Xml, Rest)
              end,
    Delay = element("delay", [{"xmlns", ?NS_DELAY}, {"stamp", Stamp}], []),
    Forwarded = element("forwarded", [{"xmlns", ?NS_FORWARD}], [Delay, Message]),
    iolist_to_binary(element("result", [{"xmlns", ?NS_MAM_2}, {"id", Id}], Forwarded)).

%% ejabberd's text, which has its namespace unless a very old version wrote it.
of_client(Xml) ->
    [Start | _] = binary:split(Xml, <<">">>),
    case binary:match(Start, <<"xmlns='jabber:client'">>) of
        nomatch ->
            {ok, Message} = parse(Xml),
            raw(roost_portable_xml:plain(Message, ?NS_CLIENT));
        _ ->
            Xml
    end.

%% As the room's owner sees it.
in_room(Room, Nick, Peer, Xml, #xmlel{children = Kept}) ->
    {ok, #xmlel{attrs = Attributes, children = Children} = Message} = parse(Xml),
    From = case Nick of <<>> -> Room; _ -> <<Room/binary, "/", Nick/binary>> end,
    Others = [A || {Key, _} = A <- Attributes, Key =/= <<"from">>, Key =/= <<"to">>, Key =/= <<"xmlns">>],
    Who = case {Kept, is_of(Room, Peer)} of
              {[_ | _], _} -> Kept;
              {[], true} -> [];
              {[], false} -> [#xmlel{name = <<"x">>, attrs = [{<<"xmlns">>, ?MUC_USER}],
                                     children = [#xmlel{name = <<"item">>, attrs = [{<<"jid">>, Peer}]}]}]
          end,
    raw(Message#xmlel{attrs = [{<<"xmlns">>, ?NS_CLIENT}, {<<"from">>, From}, {<<"to">>, Room} | Others], children = Who ++ Children}).

is_of(Room, Peer) ->
    hd(binary:split(Peer, <<"/">>)) =:= Room.

%%% In.

import(#{<<"items">> := Texts} = Arguments) ->
    {Kind, Owner} = owner(Arguments),
    roost_portable:report(take_in(Kind, Owner, Texts)).

%% Events for roost_portable:report/1.
take_in(Kind, Owner, Texts) ->
    {Known, Refused} = lists:partition(fun is_map/1, [read(Kind, Owner, Text) || Text <- Texts]),
    New = unknown(Owner, Known),
    Placed = place(Owner, New),
    roost_portable:write(case Placed of [] -> []; _ -> [inserted(Owner, Kind, Placed)] end),
    lists:duplicate(length(Placed), made) ++ Refused.

read(Kind, Owner, Text) ->
    try
        {ok, #xmlel{name = <<"result">>} = Result} = parse(Text),
        [Forwarded] = named(<<"forwarded">>, Result),
        [Delay] = named(<<"delay">>, Forwarded),
        [Message] = named(<<"message">>, Forwarded),
        Id = attribute(<<"id">>, Result),
        Stamp = attribute(<<"stamp">>, Delay),
        Time = roost_portable_xml:microseconds(Stamp),
        true = is_integer(Time) andalso Time >= 0 andalso Id =/= <<>>,
        Own = integer_to_binary(Time) =:= Id,
        (message(Kind, Owner, roost_portable_xml:plain(Message, ?NS_CLIENT)))
            #{id => Id, time => Time, own => Own, stamp => Stamp}
    catch
        _:_ -> {refused, <<"a message of the archive of ", Owner/binary>>, <<"it is no archived message">>}
    end.

message(user, Owner, Message) ->
    From = jid:decode(attribute(<<"from">>, Message)),
    To = case attribute(<<"to">>, Message) of <<>> -> jid:make(Owner, host()); Text -> jid:decode(Text) end,
    Peer = case jid:tolower(jid:remove_resource(From)) =:= {Owner, host(), <<>>} of
               true -> To;
               false -> From
           end,
    (stored(Peer, Message))#{nick => <<>>, kept => []};
message(room, Room, #xmlel{attrs = Attributes, children = Children} = Message) ->
    #jid{lresource = Nick} = From = jid:decode(attribute(<<"from">>, Message)),
    IsWho = fun(#xmlel{name = <<"x">>} = X) -> namespace(X, <<>>) =:= ?MUC_USER; (_) -> false end,
    {Who, Others} = lists:partition(IsWho, Children),
    Real = [Jid || X <- Who, Item <- named(<<"item">>, X), Jid <- [attribute(<<"jid">>, Item)], Jid =/= <<>>],
    Peer = case Real of [Jid | _] -> jid:decode(Jid); [] -> From end,
    Addressed = lists:keystore(<<"from">>, 1, lists:keystore(<<"to">>, 1, Attributes, {<<"to">>, Room}),
                               {<<"from">>, jid:encode(Peer)}),
    Told = [#xmlel{name = <<"x">>, attrs = [{<<"xmlns">>, ?MUC_USER}],
                   children = [#xmlel{name = <<"item">>, attrs = [{<<"jid">>, jid:encode(jid:tolower(Peer))}]}]}],
    Kept = case Real =/= [] andalso [raw(W) || W <- Who] =:= [raw(T) || T <- Told] of
               true -> [];
               false -> Who
           end,
    (stored(Peer, Message#xmlel{attrs = Addressed, children = Others}))#{nick => Nick, kept => Kept}.

stored(Peer, Message) ->
    #{peer => jid:encode(jid:tolower(Peer)), bare => jid:encode(jid:tolower(jid:remove_resource(Peer))),
      xml => raw(Message), body => fxml:get_subtag_cdata(Message, <<"body">>)}.

%% Those that are not there yet, each once.
unknown(_, []) ->
    [];
unknown(Owner, Items) ->
    Times = lists:usort([integer_to_list(Time) || #{own := true, time := Time} <- Items]),
    Ids = lists:usort([Id || #{own := false, id := Id} <- Items]),
    Found = rows(["SELECT CAST(timestamp AS text) FROM archive WHERE username=", quote(Owner), " AND timestamp IN (",
                  lists:join($,, Times), ") AND roost_id IS NULL UNION ALL SELECT roost_id FROM archive WHERE username=",
                  quote(Owner), " AND roost_id IN (", roost_portable:listed(Ids), ") AND roost_id IS NOT NULL"]),
    {New, _} = lists:foldl(fun(#{id := Id} = Item, {New, Seen}) ->
                               case maps:is_key(Id, Seen) of
                                   true -> {New, Seen};
                                   false -> {[Item | New], Seen#{Id => true}}
                               end
                           end, {[], maps:from_list([{Id, true} || [Id] <- Found])}, Items),
    lists:reverse(New).

%% A time for each that no other message of this archive has: RSM (XEP-0059) pages by it.
place(_, []) ->
    [];
place(Owner, Items) ->
    Times = lists:usort([integer_to_list(Time) || #{time := Time} <- Items]),
    Taken = taken(Owner, [" IN (", lists:join($,, Times), ")"]),
    {Placed, _} = lists:mapfoldl(fun(#{time := Wanted} = Item, Used) ->
                                     {Free, Known} = free(Owner, Wanted, Wanted, Used),
                                     {Item#{time := Free, wanted => Wanted}, Known#{Free => true, {next, Wanted} => Free + 1}}
                                 end, Taken, Items),
    Placed.

taken(Owner, Which) ->
    maps:from_list([{number(Time), true}
                    || [Time] <- rows(["SELECT timestamp FROM archive WHERE username=", quote(Owner),
                                       " AND timestamp", Which])]).

%% {Time, Used}. Beyond the wanted time itself, Used is complete up to {until, Wanted} only.
free(Owner, Wanted, Wanted, Used) when is_map_key(Wanted, Used) ->
    free(Owner, Wanted, maps:get({next, Wanted}, Used, Wanted + 1), Used);
free(_, Wanted, Wanted, Used) ->
    {Wanted, Used};
free(Owner, Wanted, Time, Used) ->
    case maps:get({until, Wanted}, Used, Wanted) of
        Until when Time > Until ->
            More = taken(Owner, [" BETWEEN ", integer_to_list(Time), " AND ", integer_to_list(Time + ?SEARCH)]),
            free(Owner, Wanted, Time, (maps:merge(Used, More))#{{until, Wanted} => Time + ?SEARCH});
        _ when is_map_key(Time, Used) ->
            free(Owner, Wanted, Time + 1, Used);
        _ ->
            {Time, Used}
    end.

inserted(Owner, Kind, Items) ->
    Name = case Kind of user -> "'chat'"; room -> "'groupchat'" end,
    ["INSERT INTO archive (username, timestamp, peer, bare_peer, xml, txt, kind, nick, roost_id, roost_rest) VALUES ",
     lists:join($,, [[$(, quote(Owner), $,, integer_to_list(Time), $,, quote(Peer), $,, quote(Bare), $,, quote(Xml), $,,
                      quote(Body), $,, Name, $,, quote(Nick), $,, elsewhere(Item), $,, rest(Item), $)]
                     || #{time := Time, peer := Peer, bare := Bare, xml := Xml, body := Body, nick := Nick} = Item <- Items])].

elsewhere(#{own := true, time := Time, wanted := Time}) -> "NULL";
elsewhere(#{id := Id}) -> quote(Id).

rest(#{kept := [], stamp := Stamp, time := Time}) ->
    case stamp(Time) of
        Stamp -> "NULL";
        _ -> quote(element("rest", [{"stamp", Stamp}], []))
    end;
rest(#{kept := Kept, stamp := Stamp}) ->
    quote(element("rest", [{"stamp", Stamp}], [raw(X) || X <- Kept])).

owner(#{<<"room">> := null, <<"owner">> := Name}) ->
    {user, existing(Name, jid:nodeprep(Name) =:= Name andalso ejabberd_auth:user_exists(Name, host()))};
owner(#{<<"owner">> := null, <<"room">> := Name}) ->
    Room = existing(Name, [] =/= rows(["SELECT 1 FROM muc_room WHERE name=", quote(Name), " AND host=",
                                       quote(rooms_host())])),
    {room, <<Room/binary, "@", (rooms_host())/binary>>}.

existing(Name, true) -> Name;
existing(Name, false) -> throw({refused, <<"there is no ", Name/binary>>}).
