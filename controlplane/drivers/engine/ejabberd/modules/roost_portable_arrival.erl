%%% An account from the <user/> of XEP-0227, in, for roost_control; roost_portable_user is the way out.
%%%
%%% Without "replace" what is missing is added and what is there otherwise is left alone. An element that ejabberd
%%% does not know is kept and leaves with the next export.
-module(roost_portable_arrival).

-export([import/1]).

-import(roost_portable, [rows/1, quote/1, number/1, host/0, write/1]).
-import(roost_portable_xml, [raw/1, named/2, namespace/2, attribute/2, attribute/3, cdata/1, plain/2, same/2, canonical/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").
-include_lib("p1_xmpp/include/scram.hrl").

-define(PIE, <<"urn:xmpp:pie:0">>).
-define(SCRAM, <<"urn:xmpp:pie:0#scram">>).
-define(OURS, <<"urn:roost:portable:1">>).
-define(PORTION, 100).
-define(MOST_ROUNDS, 10000000).

import(#{<<"xml">> := Xml, <<"replace">> := Replace}) ->
    {Element, User} = read(Xml),
    Children = maps:groups_from_list(fun(C) -> kind(C) end, [plain(C, ?PIE) || #xmlel{} = C <- Element#xmlel.children]),
    Of = fun(Kind) -> maps:get(Kind, Children, []) end,
    New = not ejabberd_auth:user_exists(User, host()),
    Parts = [
        {"password", fun() -> account(User, credentials(Element, Of(scram)), Replace) end},
        {"password", fun() -> made_anyway(User) end},
        {"state", fun() -> state(User, Of(disabled) =/= [], New, Replace) end},
        {"roster", fun() -> roster(User, [I || Q <- Of(roster), I <- named(<<"item">>, Q)], Of(presence), Replace) end},
        {"vCard", fun() -> [E || V <- Of(vcard), E <- vcard(User, V, Replace)] end},
        {"private data", fun() -> [E || Q <- Of(private), #xmlel{} = P <- Q#xmlel.children,
                                        E <- private(User, P, Replace)] end},
        {"PEP nodes", fun() -> roost_portable_pep:import(User, Of(pubsub_owner), Of(pubsub), Replace) end},
        {"privacy lists", fun() -> [E || Q <- Of(privacy), E <- privacy(User, Q, Replace)] end},
        {"block list", fun() -> blocklist(User, [attribute(<<"jid">>, I) || B <- Of(blocklist),
                                                                            I <- named(<<"item">>, B)]) end},
        {"offline messages", fun() -> offline(User, [plain(M, ?NS_CLIENT) || O <- Of(offline),
                                                                             M <- named(<<"message">>, O)]) end},
        {"archive preferences", fun() -> [E || P <- Of(preferences), E <- preferences(User, P, Replace)] end},
        {"archive", fun() -> [E || A <- Of(archive),
                                   Part <- parts([raw(plain(R, ?NS_MAM_2)) || R <- named(<<"result">>, A)]),
                                   E <- roost_portable_archive:take_in(user, User, Part)] end},
        {"elements", fun() -> [E || O <- Of(other), E <- other(User, O)] end}],
    roost_portable:report([E || {What, Part} <- Parts, E <- told(User, What, Part)]).

%% What makes no sense is told, and the rest is taken. A database that fails is no such thing.
told(User, What, Part) ->
    try
        Part()
    catch
        throw:{invalid, Why} ->
            [{refused, iolist_to_binary([What, " of ", User]), Why}];
        error:Reason when not (is_tuple(Reason) andalso element(1, Reason) =:= badmatch) ->
            [{refused, iolist_to_binary([What, " of ", User]), <<"it makes no sense to ejabberd">>}]
    end.

read(Xml) ->
    case roost_portable_xml:parse(Xml) of
        {ok, #xmlel{name = <<"user">>} = Element} ->
            namespace(Element, ?PIE) =:= ?PIE orelse throw({invalid, <<"it is no <user/> of XEP-0227">>}),
            User = attribute(<<"name">>, Element),
            User =/= <<>> andalso jid:nodeprep(User) =:= User
                orelse throw({invalid, <<"ejabberd would change or refuse the name ", User/binary>>}),
            {Element, User};
        _ ->
            throw({invalid, <<"it is no <user/> of XEP-0227">>})
    end.

kind(#xmlel{name = Name} = Element) ->
    case {Name, namespace(Element, ?PIE)} of
        {<<"scram-credentials">>, ?SCRAM} -> scram;
        {<<"disabled">>, ?OURS} -> disabled;
        {<<"query">>, ?NS_ROSTER} -> roster;
        {<<"presence">>, ?NS_CLIENT} -> presence;
        {<<"vCard">>, ?NS_VCARD} -> vcard;
        {<<"query">>, ?NS_PRIVATE} -> private;
        {<<"pubsub">>, ?NS_PUBSUB_OWNER} -> pubsub_owner;
        {<<"pubsub">>, ?NS_PUBSUB} -> pubsub;
        {<<"query">>, ?NS_PRIVACY} -> privacy;
        {<<"blocklist">>, ?NS_BLOCKING} -> blocklist;
        {<<"offline-messages">>, ?PIE} -> offline;
        {<<"prefs">>, ?NS_MAM_2} -> preferences;
        {<<"archive">>, <<"urn:xmpp:pie:0#mam">>} -> archive;
        _ -> other
    end.

%% An archive comes in pages by itself; some put it into the account (XEP-0227 §4.11).
parts([]) ->
    [];
parts(Results) ->
    {Some, Rest} = lists:split(min(?PORTION, length(Results)), Results),
    [Some | parts(Rest)].

%%% The account. ejabberd holds the keys of one mechanism, and offers logins by SHA-256.

credentials(Element, Given) ->
    Found = [{Hash, C} || C <- Given, Hash <- [hash(attribute(<<"mechanism">>, C))], Hash =/= unknown],
    case {lists:keysort(1, Found), attribute(<<"password">>, Element)} of
        {[], <<>>} ->
            none;
        {[], Password} ->
            #scram{hash = Hash, storedkey = Stored, serverkey = Server, salt = Salt, iterationcount = Count} =
                ejabberd_auth:password_to_scram(host(), Password),
            {Hash, Stored, Server, Salt, Count, []};
        {[{{_, Hash}, Best} | Others], _} ->
            Part = fun(Name) -> string:trim(iolist_to_binary([cdata(P) || P <- named(Name, Best)])) end,
            Keys = {Hash, Part(<<"stored-key">>), Part(<<"server-key">>), Part(<<"salt">>),
                    try binary_to_integer(Part(<<"iter-count">>)) catch _:_ -> 0 end, [C || {_, C} <- Others]},
            is_sound(Keys) orelse throw({invalid, <<"its keys are none of this mechanism">>}),
            Keys
    end.

%% RFC 5802 §3. ejabberd would deny an account with other ones.
is_sound({Hash, Stored, Server, Salt, Count, _}) ->
    Size = maps:get(size, crypto:hash_info(Hash)),
    try
        Size =:= byte_size(base64:decode(Stored)) andalso Size =:= byte_size(base64:decode(Server)) andalso
            base64:decode(Salt) =/= <<>> andalso Count > 0 andalso Count =< ?MOST_ROUNDS
    catch
        _:_ -> false
    end.

%% In the order of use.
hash(<<"SCRAM-SHA-256">>) -> {1, sha256};
hash(<<"SCRAM-SHA-512">>) -> {2, sha512};
hash(<<"SCRAM-SHA-1">>) -> {3, sha};
hash(_) -> unknown.

account(User, Credentials, Replace) ->
    {Columns, Others, Notes} = columns(User, Credentials),
    Table = case rows(["SELECT 1 FROM roost_disabled WHERE username=", quote(User)]) of [] -> "users"; _ -> "roost_disabled" end,
    case rows(["SELECT password, serverkey, salt, iterationcount FROM ", Table, " WHERE username=", quote(User)]) of
        [] ->
            write([["INSERT INTO users (username, password, serverkey, salt, iterationcount) VALUES (", quote(User), $,,
                    lists:join($,, sql(Columns)), ")"]]),
            ejabberd_hooks:run(register_user, host(), [User, host()]),
            keep_others(User, Columns, Others),
            [made | Notes];
        [[Key, Server, Salt, Count]] ->
            case {[Key, Server, Salt, number(Count)] =:= Columns, Credentials, Replace} of
                {true, _, _} -> [];
                {_, none, _} -> [];
                {false, _, false} -> [{skipped, <<"the password of ", User/binary>>, <<"it has another one">>}];
                {false, _, true} ->
                    write([["UPDATE ", Table, " SET (password, serverkey, salt, iterationcount) = (",
                            lists:join($,, sql(Columns)), ") WHERE username=", quote(User)]]),
                    keep_others(User, Columns, Others),
                    [changed | Notes]
            end
    end.

%% Without a password, if it makes no sense.
made_anyway(User) ->
    case ejabberd_auth:user_exists(User, host()) of
        true -> [];
        false -> account(User, none, false)
    end.

%% For as long as the password is the same.
keep_others(User, [Key | _], Others) ->
    [roost_portable:keep(owner(User), <<"scram:", Key/binary, " ", (attribute(<<"mechanism">>, C))/binary>>, raw(C))
     || C <- Others].

columns(User, none) ->
    Nobodys = fun() -> base64:encode(crypto:strong_rand_bytes(32)) end,
    {[<<"sha256:", (Nobodys())/binary>>, Nobodys(), Nobodys(), 10000], [],
     [{noted, <<"the password of ", User/binary>>, <<"there is none; a new one has to be set">>}]};
columns(User, {Hash, Stored, Server, Salt, Count, Others}) ->
    {[case Hash of sha -> Stored; _ -> <<(atom_to_binary(Hash))/binary, ":", Stored/binary>> end, Server, Salt, Count],
     Others,
     [{noted, <<"the password of ", User/binary>>, <<"only logins by PLAIN fit, until it is set anew">>}
      || Hash =/= sha256]}.

sql(Columns) ->
    [if is_integer(C) -> integer_to_list(C); true -> quote(C) end || C <- Columns].

%% Of an account that was there, only with Replace.
state(User, Disabled, New, Replace) ->
    Was = rows(["SELECT 1 FROM roost_disabled WHERE username=", quote(User)]) =/= [],
    Set = fun() -> roost_accounts:set_enabled(#{<<"username">> => User, <<"enabled">> => not Disabled}) end,
    if
        Was =:= Disabled -> [];
        New -> Set(), [];
        Replace -> Set(), [changed];
        true -> [{skipped, <<"whether ", User/binary, " may log in">>, <<"it is there otherwise">>}]
    end.

owner(User) ->
    <<"user:", User/binary>>.

%%% The roster.

roster(User, Items, Presences, Replace) ->
    Was = maps:from_list([{Jid, {Nick, Subscription, Ask, Message}} ||
                             [Jid, Nick, Subscription, Ask, Message] <-
                                 rows(["SELECT jid, nick, subscription, ask, askmessage FROM rosterusers WHERE username=",
                                       quote(User)])]),
    Groups = maps:groups_from_list(fun([Jid, _]) -> Jid end, fun([_, G]) -> G end,
                                   rows(["SELECT jid, grp FROM rostergroups WHERE username=", quote(User)])),
    Requests = [P || P <- Presences, attribute(<<"type">>, P) =:= <<"subscribe">>],
    {Wanted, Refused} = lists:foldl(fun wanted/2, {#{}, []}, Items ++ Requests),
    {Queries, Events} = lists:unzip(
        [contact(User, Jid, W, maps:get(Jid, Was, none), lists:sort(maps:get(Jid, Groups, [])), Replace)
         || {Jid, W} <- maps:to_list(Wanted)]),
    write(lists:append(Queries)),
    [roost_portable:keep(owner(User), <<"pending:", (attribute(<<"from">>, R))/binary, " ", (words(R))/binary>>, raw(R))
     || R <- Requests],
    lists:append(Events) ++ Refused ++ lists:append([approved(User, I) || I <- Items]).

wanted(#xmlel{name = Name} = Element, {Found, Refused}) ->
    Key = case Name of <<"presence">> -> <<"from">>; _ -> <<"jid">> end,
    try jid:encode(jid:tolower(jid:decode(attribute(Key, Element)))) of
        Text ->
            Jid = case Name of <<"presence">> -> hd(binary:split(Text, <<"/">>)); _ -> Text end,
            {Found#{Jid => wanted(Name, Element, maps:get(Jid, Found, {<<>>, <<"N">>, <<"N">>, <<>>, []}))}, Refused}
    catch
        _:_ -> {Found, [{refused, <<"contact ", (attribute(Key, Element))/binary>>, <<"it is no address">>} | Refused]}
    end.

wanted(<<"presence">>, Element, {Nick, Subscription, Ask, _, Groups}) ->
    Both = case Ask of <<"O">> -> <<"B">>; _ -> <<"I">> end,
    {Nick, Subscription, Both, words(Element), Groups};
wanted(_, Element, {_, _, Before, Message, _}) ->
    Out = attribute(<<"ask">>, Element) =:= <<"subscribe">>,
    Ask = case {Before, Out} of
              {<<"N">>, true} -> <<"O">>;
              {<<"I">>, true} -> <<"B">>;
              _ -> Before
          end,
    {attribute(<<"name">>, Element), letter(attribute(<<"subscription">>, Element)), Ask, Message,
     lists:usort([cdata(G) || G <- named(<<"group">>, Element)])}.

words(Request) ->
    iolist_to_binary([cdata(S) || S <- named(<<"status">>, Request)]).

letter(<<"both">>) -> <<"B">>;
letter(<<"to">>) -> <<"T">>;
letter(<<"from">>) -> <<"F">>;
letter(_) -> <<"N">>.

contact(User, Jid, {Nick, Subscription, Ask, Message, Groups}, Was, WasGroups, Replace) ->
    Same = Was =:= {Nick, Subscription, Ask, Message} andalso WasGroups =:= Groups,
    if
        Same -> {[], []};
        Was =/= none, not Replace ->
            {[], [{skipped, <<"contact ", Jid/binary, " of ", User/binary>>, <<"it is there otherwise">>}]};
        true ->
            {[["INSERT OR REPLACE INTO rosterusers (username, jid, nick, subscription, ask, askmessage, server, subscribe,"
               " type) VALUES (", lists:join($,, [quote(T) || T <- [User, Jid, Nick, Subscription, Ask, Message]]),
               ", 'N', '', 'item')"],
              ["DELETE FROM rostergroups WHERE username=", quote(User), " AND jid=", quote(Jid)]
              | [["INSERT INTO rostergroups (username, jid, grp) VALUES (", quote(User), $,, quote(Jid), $,, quote(G), ")"]
                 || G <- Groups]],
             [case Was of none -> made; _ -> changed end]}
    end.

%% RFC 6121 §3.4.
approved(User, Item) ->
    Jid = attribute(<<"jid">>, Item),
    case roost_portable_xml:yes(attribute(<<"approved">>, Item)) of
        true ->
            roost_portable:keep(owner(User), <<"approved:", Jid/binary>>, <<"<approved/>">>),
            case lists:member(attribute(<<"subscription">>, Item), [<<"from">>, <<"both">>]) of
                true -> [];
                false -> [{noted, <<"the approval of ", Jid/binary, " before it asks, by ", User/binary>>,
                           <<"ejabberd has no such thing">>}]
            end;
        false ->
            []
    end.

%%% vCard, private storage, offline messages, preferences.

vcard(User, Element, Replace) ->
    Xml = raw(Element),
    case rows(["SELECT vcard FROM vcard WHERE username=", quote(User)]) of
        [] ->
            set_vcard(User, Element, made);
        [[Old]] ->
            case {same(Old, Xml), Replace} of
                {true, _} -> [];
                {false, false} -> [{skipped, <<"the vCard of ", User/binary>>, <<"there is another one">>}];
                {false, true} -> set_vcard(User, Element, changed)
            end
    end.

%% As it came, and not as ejabberd's own record of it: that drops what it does not know.
set_vcard(User, Element, Event) ->
    case try mod_vcard:set_vcard(User, host(), Element) catch _:_ -> {error, failed} end of
        ok -> [Event];
        {error, _} -> [{refused, <<"the vCard of ", User/binary>>, <<"ejabberd does not take it">>}]
    end.

private(User, Element, Replace) ->
    Space = namespace(Element, <<>>),
    Xml = raw(Element),
    What = <<"private data of ", User/binary, ": ", Space/binary>>,
    Set = fun(Event) ->
              write([["INSERT OR REPLACE INTO private_storage (username, namespace, data) VALUES (", quote(User), $,,
                      quote(Space), $,, quote(Xml), ")"]]),
              [Event]
          end,
    case rows(["SELECT data FROM private_storage WHERE username=", quote(User), " AND namespace=", quote(Space)]) of
        _ when Space =:= <<>>; Space =:= ?NS_PRIVATE -> [{refused, What, <<"it has no namespace">>}];
        [] -> Set(made);
        [[Old]] ->
            case {same(Old, Xml), Replace} of
                {true, _} -> [];
                {false, false} -> [{skipped, What, <<"there is another one">>}];
                {false, true} -> Set(changed)
            end
    end.

offline(User, Messages) ->
    Was = maps:from_list([{canonical(roost_portable_user:waiting(Xml)), true} || Messages =/= [],
                          [Xml] <- rows(["SELECT xml FROM spool WHERE username=", quote(User)])]),
    New = [Xml || M <- Messages, Xml <- [raw(M)], not maps:is_key(canonical(roost_portable_user:waiting(Xml)), Was)],
    write([["INSERT INTO spool (username, xml) VALUES (", quote(User), $,, quote(Xml), ")"] || Xml <- New]),
    [made || _ <- New].

preferences(User, Element, Replace) ->
    Listed = fun(Name) ->
                 misc:term_to_expr([jid:tolower(jid:decode(cdata(J))) || L <- named(Name, Element), J <- named(<<"jid">>, L)])
             end,
    Default = attribute(<<"default">>, Element),
    lists:member(Default, [<<"always">>, <<"never">>, <<"roster">>]) orelse throw({invalid, <<"there is no such default">>}),
    Wanted = [Default, iolist_to_binary(Listed(<<"always">>)), iolist_to_binary(Listed(<<"never">>))],
    case rows(["SELECT def, always, never FROM archive_prefs WHERE username=", quote(User)]) of
        [Wanted] ->
            [];
        [_] when not Replace ->
            [{skipped, <<"the archive preferences of ", User/binary>>, <<"there are others">>}];
        Was ->
            write([["INSERT OR REPLACE INTO archive_prefs (username, def, always, never) VALUES (", quote(User), $,,
                    lists:join($,, [quote(W) || W <- Wanted]), ")"]]),
            [case Was of [] -> made; _ -> changed end]
    end.

other(User, Element) ->
    Space = namespace(Element, <<>>),
    What = <<"element:", (Element#xmlel.name)/binary, " ", Space/binary>>,
    Xml = raw(Element),
    case lists:keyfind(What, 1, roost_portable:kept(owner(User))) of
        {_, Xml} ->
            [];
        _ ->
            roost_portable:keep(owner(User), What, Xml),
            [{noted, <<"<", (Element#xmlel.name)/binary, " xmlns='", Space/binary, "'/> of ", User/binary>>,
              <<"ejabberd has no place for it">>}]
    end.

%%% Privacy lists (XEP-0016) and the block list (XEP-0191) in the default one of them.

privacy(User, Query, Replace) ->
    Lists = [{attribute(<<"name">>, L), named(<<"item">>, L)} || L <- named(<<"list">>, Query)],
    Events = lists:append([privacy_list(User, Name, Items, Replace) || {Name, Items} <- Lists]),
    Default = [attribute(<<"name">>, D) || D <- named(<<"default">>, Query)],
    write([["INSERT OR IGNORE INTO privacy_default_list (username, name) VALUES (", quote(User), $,, quote(D), ")"]
           || D <- Default, D =/= <<>>, lists:keymember(D, 1, Lists)]),
    Events.

privacy_list(User, Name, Items, Replace) ->
    Id = ["(SELECT id FROM privacy_list WHERE username=", quote(User), " AND name=", quote(Name), ")"],
    Was = rows(["SELECT 1 FROM privacy_list WHERE username=", quote(User), " AND name=", quote(Name)]),
    Rules = [["INSERT INTO privacy_list_data (id, t, value, action, ord, match_all, match_iq, match_message,"
              " match_presence_in, match_presence_out) VALUES (", Id, $,, lists:join($,, rule(I)), ")"] || I <- Items],
    case Was of
        _ when Name =:= <<>> ->
            [{refused, <<"a privacy list of ", User/binary>>, <<"it has no name">>}];
        [] ->
            write([["INSERT INTO privacy_list (username, name) VALUES (", quote(User), $,, quote(Name), ")"] | Rules]),
            [made];
        [_] ->
            Old = rows(["SELECT t, value, action, CAST(ord AS text), CAST(match_all AS text), CAST(match_iq AS text),"
                        " CAST(match_message AS text), CAST(match_presence_in AS text), CAST(match_presence_out AS text)"
                        " FROM privacy_list_data WHERE id=", Id]),
            New = [[string:trim(iolist_to_binary(C), both, "'") || C <- rule(I)] || I <- Items],
            case {lists:sort(Old) =:= lists:sort(New), Replace} of
                {true, _} -> [];
                {false, false} -> [{skipped, <<"privacy list ", Name/binary, " of ", User/binary>>, <<"it is there otherwise">>}];
                {false, true} -> write([["DELETE FROM privacy_list_data WHERE id=", Id] | Rules]), [changed]
            end
    end.

%% The columns as SQL.
rule(#xmlel{} = Item) ->
    Type = case attribute(<<"type">>, Item) of
               <<"jid">> -> <<"j">>; <<"group">> -> <<"g">>; <<"subscription">> -> <<"s">>; _ -> <<"n">>
           end,
    Action = case attribute(<<"action">>, Item) of <<"deny">> -> <<"d">>; _ -> <<"a">> end,
    Order = try binary_to_integer(attribute(<<"order">>, Item)) catch _:_ -> 0 end,
    Has = fun(Name) -> case named(Name, Item) of [] -> "0"; _ -> "1" end end,
    Matches = [Has(N) || N <- [<<"iq">>, <<"message">>, <<"presence-in">>, <<"presence-out">>]],
    All = case lists:member("1", Matches) of true -> "0"; false -> "1" end,
    [quote(Type), quote(attribute(<<"value">>, Item)), quote(Action), integer_to_list(Order), All | Matches].

blocklist(_, []) ->
    [];
blocklist(User, Jids) ->
    [Name | _] = [D || [D] <- rows(["SELECT name FROM privacy_default_list WHERE username=", quote(User)])]
        ++ [<<"Blocked contacts">>],
    Id = ["(SELECT id FROM privacy_list WHERE username=", quote(User), " AND name=", quote(Name), ")"],
    Was = [Jid || [Jid] <- rows(["SELECT value FROM privacy_list_data WHERE t='j' AND action='d' AND match_all AND id=", Id])],
    {Good, Bad} = lists:partition(fun(J) -> J =/= error end,
                                  [try jid:encode(jid:tolower(jid:decode(J))) catch _:_ -> error end || J <- Jids]),
    New = lists:usort(Good) -- Was,
    write([["INSERT OR IGNORE INTO privacy_list (username, name) VALUES (", quote(User), $,, quote(Name), ")"],
           ["INSERT OR IGNORE INTO privacy_default_list (username, name) VALUES (", quote(User), $,, quote(Name), ")"]
           | [["INSERT INTO privacy_list_data (id, t, value, action, ord, match_all, match_iq, match_message,"
               " match_presence_in, match_presence_out) VALUES (", Id, ", 'j', ", quote(Jid), ", 'd', 0, 1, 0, 0, 0, 0)"]
              || Jid <- New]]),
    [made || _ <- New] ++ [{refused, <<"a blocked address of ", User/binary>>, <<"it is no address">>} || _ <- Bad].
