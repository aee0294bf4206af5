%%% PEP nodes (XEP-0163) of an account, as XEP-0227 §4.10 carries them: configuration, affiliations and subscriptions as their owner
%%% sees them (XEP-0060 §8), then all items, oldest first.
-module(roost_portable_pep).

-export([export/1, import/4]).

-import(roost_portable, [rows/1, quote/1, number/1, host/0]).
-import(roost_portable_xml, [element/3, raw/1, named/2, attribute/2, attribute/3, text/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").
-include("pubsub.hrl").

-define(FORM, <<"http://jabber.org/protocol/pubsub#node_config">>).

export(User) ->
    Kept = roost_portable:kept(<<"user:", User/binary>>),
    Found = [[integer_to_list(number(Index)), Node]
             || [Index, Node] <- rows(["SELECT nodeid, node FROM pubsub_node WHERE host=", quote(bare(User)),
                                       " ORDER BY node"])],
    [[element("pubsub", [{"xmlns", ?NS_PUBSUB_OWNER}], [owned(User, Index, Node, Kept) || [Index, Node] <- Found]),
      element("pubsub", [{"xmlns", ?NS_PUBSUB}],
              [element("items", [{"node", Node}], Items)
               || [Index, Node] <- Found, (Items = items(User, Index)) =/= []])] || Found =/= []].

owned(User, Index, Node, Kept) ->
    Type = element("field", [{"var", <<"FORM_TYPE">>}, {"type", <<"hidden">>}], element("value", [], ?FORM)),
    Fields = [field(Field) || Option <- options(User, Node), Field <- encoded(Option)],
    Others = [Xml || {What, Xml} <- Kept, is_for(Node, What)],
    Form = element("x", [{"xmlns", ?NS_XDATA}, {"type", <<"submit">>}], [Type, Fields, Others]),
    States = rows(["SELECT jid, coalesce(affiliation, 'n'), subscriptions FROM pubsub_state WHERE nodeid=", Index,
                   " ORDER BY jid"]),
    Affiliated = [element("affiliation", [{"jid", Jid}, {"affiliation", word(A)}], [])
                  || [Jid, Letter, _] <- States, Jid =/= bare(User),
                     (A = node_flat_sql:decode_affiliation(Letter)) =/= none],
    Subscribed = [element("subscription", [{"jid", Jid}, {"subscription", atom_to_binary(S)}, {"subid", Id}], [])
                  || [Jid, _, Texts] <- States, {S, Id} <- subscriptions(Texts)],
    [element("configure", [{"node", Node}], Form),
     [element("affiliations", [{"node", Node}], Affiliated) || Affiliated =/= []],
     [element("subscriptions", [{"node", Node}], Subscribed) || Subscribed =/= []]].

word(publish_only) -> <<"publish-only">>;
word(Affiliation) -> atom_to_binary(Affiliation).

is_for(Node, What) ->
    Start = <<"pep:", Node/binary, " ">>,
    binary:longest_common_prefix([Start, What]) =:= byte_size(Start).

options(User, Node) ->
    case mod_pubsub:tree_action(ljid(User), get_node, [ljid(User), Node]) of
        #pubsub_node{options = Options} -> lists:keysort(1, Options);
        _ -> []
    end.

%% Some of ejabberd's options are no fields of the form.
encoded(Option) ->
    try pubsub_node_config:encode([Option], <<"en">>) of
        Fields -> [F || #xdata_field{var = Var} = F <- Fields, Var =/= <<"FORM_TYPE">>]
    catch
        _:_ -> []
    end.

field(#xdata_field{var = Var, type = Type, values = Values}) ->
    Told = case {Values, Type} of
               {[], 'list-multi'} -> [];
               {[], 'text-multi'} -> [];
               {[], 'jid-multi'} -> [];
               {[], _} -> [<<>>];
               _ -> Values
           end,
    element("field", [{"var", Var}], [element("value", [], text(Value)) || Value <- Told]).

%% "s:id,p:id"
subscriptions(Texts) ->
    [{node_state(Letter), Id} || Text <- binary:split(Texts, <<",">>, [global]),
                                 [Letter, Id] <- [binary:split(Text, <<":">>)]].

node_state(<<"p">>) -> pending;
node_state(<<"u">>) -> unconfigured;
node_state(_) -> subscribed.

items(User, Index) ->
    [element("item", [{"id", Id}, {"publisher", case of_owner(User, Publisher) of true -> none; false -> Publisher end}],
             Payload)
     || [Id, Publisher, Payload] <- rows(["SELECT itemid, publisher, payload FROM pubsub_item WHERE nodeid=", Index,
                                          " ORDER BY modification, rowid"])].

of_owner(User, Publisher) ->
    hd(binary:split(Publisher, <<"/">>)) =:= bare(User).

%%% In. Returns events for roost_portable:report/1.

import(User, Owned, Published, Replace) ->
    Forms = maps:from_list([{attribute(<<"node">>, C), C} || P <- Owned, C <- named(<<"configure">>, P)]),
    Items = maps:from_list([{attribute(<<"node">>, I), named(<<"item">>, I)}
                            || P <- Published, I <- named(<<"items">>, P)]),
    States = maps:groups_from_list(fun({Node, _}) -> Node end, fun({_, S}) -> S end,
                                   [{attribute(<<"node">>, Group), Entry}
                                    || P <- Owned, Name <- [<<"affiliations">>, <<"subscriptions">>],
                                       Group <- named(Name, P), #xmlel{} = Entry <- Group#xmlel.children]),
    Nodes = lists:usort(maps:keys(Forms) ++ maps:keys(Items) ++ maps:keys(States)),
    lists:flatmap(fun(<<>>) ->
                          [{refused, <<"a PEP node">>, <<"it has no name">>}];
                     (Node) ->
                          node(User, Node, maps:get(Node, Forms, none), maps:get(Node, Items, []),
                               maps:get(Node, States, []), Replace)
                  end, Nodes).

node(User, Node, Form, Items, States, Replace) ->
    {Wanted, Notes} = configured(User, Node, Form),
    Was = options(User, Node),
    {Queries, Events} =
        case Was of
            [] ->
                {created(User, Node, Wanted), [made]};
            _ ->
                case {[O || O <- Wanted, not lists:member(O, Was)], Replace} of
                    {[], _} -> {[], []};
                    {Other, false} -> {[], [{skipped, node_name(Node), <<"it is configured otherwise">>} || _ <- Other]};
                    {Other, true} -> {lists:flatmap(fun(O) -> option(User, Node, O) end, Other), [changed || _ <- Other]}
                end
        end,
    Now = erlang:system_time(microsecond),
    Options = case Was of [] -> Wanted; _ -> Was end,
    Had = case Was of
              [] -> #{};
              _ -> maps:from_list([{Id, Xml} || [Id, Xml] <- rows(["SELECT itemid, payload FROM pubsub_item WHERE nodeid=",
                                                                  index(User, Node)])])
          end,
    Room = case {Replace, lists:keyfind(max_items, 1, Options)} of
               {false, {_, Most}} when is_integer(Most), map_size(Had) > 0 -> max(0, Most - map_size(Had));
               _ -> infinity
           end,
    {ItemQueries, ItemEvents} = items_in(User, Node, Items, Had, Room, Now, Replace),
    {StateQueries, StateEvents} = lists:unzip(lists:flatmap(fun(S) -> state(User, Node, S) end, merged(States))),
    roost_portable:write(Queries ++ ItemQueries ++ trimmed(User, Node, Replace, Options) ++ StateQueries),
    Events ++ Notes ++ ItemEvents ++ lists:append(StateEvents).

node_name(Node) ->
    <<"PEP node ", Node/binary>>.

configured(User, Node, Form) ->
    Fields = case Form of
                 none -> [];
                 _ -> [F || X <- named(<<"x">>, Form), F <- named(<<"field">>, X),
                            attribute(<<"var">>, F) =/= <<"FORM_TYPE">>]
             end,
    {Known, Unknown} = lists:partition(fun({Options, _}) -> Options =/= unknown end, [{decoded(F), F} || F <- Fields]),
    Strange = [F || {_, F} <- Unknown],
    [roost_portable:keep(<<"user:", User/binary>>, <<"pep:", Node/binary, " ", (attribute(<<"var">>, F))/binary>>, raw(F))
     || F <- Strange],
    Forced = forced(Node),
    Wanted = lists:append([O || {O, _} <- Known]),
    Options = lists:ukeymerge(1, lists:ukeysort(1, Forced),
                              lists:ukeymerge(1, lists:ukeysort(1, Wanted), lists:ukeysort(1, node_pep_sql:options()))),
    {Options,
     [{noted, <<(node_name(Node))/binary, ": ", (attribute(<<"var">>, F))/binary>>, <<"ejabberd has no such option">>}
      || F <- Strange] ++
         [{noted, <<(node_name(Node))/binary, ": ", (atom_to_binary(Key))/binary>>, <<"this server always sets it itself">>}
          || {Key, Value} <- Forced, {K, V} <- Wanted, K =:= Key, V =/= Value]}.

forced(Node) ->
    Found = [Options || {Pattern, Options} <- mod_pubsub_opt:force_node_config(host()), re:run(Node, Pattern) =/= nomatch],
    lists:append(lists:sublist(Found, 1)).

decoded(Field) ->
    Read = #xdata_field{var = attribute(<<"var">>, Field),
                        values = [roost_portable_xml:cdata(V) || V <- named(<<"value">>, Field)]},
    try pubsub_node_config:decode([Read]) catch _:_ -> unknown end.

created(User, Node, Options) ->
    [["INSERT INTO pubsub_node (host, node, parent, plugin) VALUES (", quote(bare(User)), $,, quote(Node), ", '', 'pep')"],
     ["INSERT INTO pubsub_state (nodeid, jid, affiliation, subscriptions) VALUES (", index(User, Node), $,,
      quote(bare(User)), ", 'o', '')"]
     | lists:flatmap(fun(O) -> option(User, Node, O) end, Options)].

option(User, Node, {Key, Value}) ->
    [["DELETE FROM pubsub_node_option WHERE nodeid=", index(User, Node), " AND name=", quote(atom_to_binary(Key))],
     ["INSERT INTO pubsub_node_option (nodeid, name, val) VALUES (", index(User, Node), $,, quote(atom_to_binary(Key)), $,,
      quote(misc:term_to_expr(Value)), ")"]].

index(User, Node) ->
    ["(SELECT nodeid FROM pubsub_node WHERE host=", quote(bare(User)), " AND node=", quote(Node), ")"].

items_in(User, Node, Items, Had, Room, Now, Replace) ->
    {Queries, Events, _, _} =
        lists:foldl(fun(Item, {Qs, Es, Left, At}) ->
                        Id = attribute(<<"id">>, Item),
                        Xml = payload(Item),
                        case Had of
                            #{Id := Old} ->
                                case {roost_portable_xml:same(Old, Xml), Replace} of
                                    {true, _} -> {Qs, Es, Left, At + 1};
                                    {false, false} -> {Qs, [otherwise(Node, Id) | Es], Left, At + 1};
                                    {false, true} -> {[item(User, Node, Id, Item, Xml, At) | Qs], [changed | Es], Left, At + 1}
                                end;
                            _ when Left =:= 0 ->
                                {Qs, [otherwise(Node, Id) | Es], Left, At + 1};
                            _ when Id =:= <<>> ->
                                {Qs, [{refused, node_name(Node), <<"an item without id">>} | Es], Left, At};
                            _ ->
                                {[item(User, Node, Id, Item, Xml, At) | Qs], [made | Es], less(Left), At + 1}
                        end
                    end, {[], [], Room, Now}, Items),
    {lists:reverse(Queries), Events}.

less(infinity) -> infinity;
less(Left) -> Left - 1.

otherwise(Node, Id) ->
    {skipped, <<(node_name(Node))/binary, ", item ", Id/binary>>, <<"there is another one">>}.

payload(#xmlel{children = Children}) ->
    iolist_to_binary([raw(roost_portable_xml:plain(Child, ?NS_PUBSUB)) || #xmlel{} = Child <- Children]).

item(User, Node, Id, Item, Xml, At) ->
    Time = quote(io_lib:format("~6..0b:~6..0b:~6..0b", [At div 1000000000000, At div 1000000 rem 1000000, At rem 1000000])),
    ["INSERT OR REPLACE INTO pubsub_item (nodeid, itemid, publisher, creation, modification, payload) VALUES (",
     index(User, Node), $,, quote(Id), $,, quote(attribute(<<"publisher">>, Item, bare(User))), $,, Time, $,, Time, $,,
     quote(Xml), ")"].

%% A node of one item has one afterwards, too.
trimmed(User, Node, true, Options) ->
    case lists:keyfind(max_items, 1, Options) of
        {_, Most} when is_integer(Most), Most > 0 ->
            [["DELETE FROM pubsub_item WHERE nodeid=", index(User, Node), " AND rowid NOT IN (SELECT rowid FROM pubsub_item"
              " WHERE nodeid=", index(User, Node), " ORDER BY modification DESC LIMIT ", integer_to_list(Most), ")"]];
        _ ->
            []
    end;
trimmed(_, _, false, _) ->
    [].

%% #{Jid => {Affiliation letter, Subscriptions}}
merged(Entries) ->
    maps:to_list(lists:foldl(
        fun(#xmlel{name = Name} = Entry, Found) ->
            Jid = attribute(<<"jid">>, Entry),
            {A, S} = maps:get(Jid, Found, {<<"n">>, []}),
            case Name of
                <<"affiliation">> -> Found#{Jid => {letter(attribute(<<"affiliation">>, Entry)), S}};
                <<"subscription">> -> Found#{Jid => {A, [[letter(attribute(<<"subscription">>, Entry)), $:,
                                                          subid(attribute(<<"subid">>, Entry))] | S]}};
                _ -> Found
            end
        end, #{}, Entries)).

letter(<<"owner">>) -> <<"o">>;
letter(<<"publisher">>) -> <<"p">>;
letter(<<"publish-only">>) -> <<"u">>;
letter(<<"member">>) -> <<"m">>;
letter(<<"outcast">>) -> <<"c">>;
letter(<<"subscribed">>) -> <<"s">>;
letter(<<"pending">>) -> <<"p">>;
letter(<<"unconfigured">>) -> <<"u">>;
letter(_) -> <<"n">>.

subid(<<>>) -> binary:encode_hex(crypto:strong_rand_bytes(8));
subid(Id) -> Id.

state(User, Node, {Jid, {Letter, Subscriptions}}) ->
    case rows(["SELECT 1 FROM pubsub_state WHERE nodeid=", index(User, Node), " AND jid=", quote(Jid)]) of
        [] when Jid =/= <<>> ->
            [{["INSERT OR IGNORE INTO pubsub_state (nodeid, jid, affiliation, subscriptions) VALUES (", index(User, Node), $,,
               quote(Jid), $,, quote(Letter), $,, quote(lists:join($,, Subscriptions)), ")"], [made]}];
        _ ->
            []
    end.

bare(User) ->
    <<User/binary, "@", (host())/binary>>.

ljid(User) ->
    {User, host(), <<>>}.
