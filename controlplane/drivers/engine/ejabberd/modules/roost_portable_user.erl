%%% One account as the <user/> of XEP-0227, out, for roost_control; roost_portable_arrival takes it in.
%%%
%%% The database holds nearly everything as XML text already, so nothing is read but what is handed on.
-module(roost_portable_user).

-export([export/1, waiting/1]).

-import(roost_portable, [rows/1, quote/1, number/1, host/0]).
-import(roost_portable_xml, [element/3, text/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").

export(#{<<"username">> := User}) ->
    case ejabberd_auth:user_exists(User, host()) of
        true -> ok;
        false -> throw({refused, <<"there is no account ", User/binary>>})
    end,
    iolist_to_binary(
        element("user", [{"xmlns", <<"urn:xmpp:pie:0">>}, {"name", User}],
                [credentials(User), roster(User), vcard(User), private(User), roost_portable_pep:export(User),
                 blocklist(User), privacy(User), offline(User), preferences(User), kept(User)])).

credentials(User) ->
    Disabled = rows(["SELECT password, serverkey, salt, iterationcount FROM roost_disabled WHERE username=", quote(User)]),
    [[Key, ServerKey, Salt, Count] | _] =
        Disabled ++ rows(["SELECT password, serverkey, salt, iterationcount FROM users WHERE username=", quote(User)]),
    {Mechanism, Stored} = case Key of
                              <<"sha256:", K/binary>> -> {<<"SCRAM-SHA-256">>, K};
                              <<"sha512:", K/binary>> -> {<<"SCRAM-SHA-512">>, K};
                              K -> {<<"SCRAM-SHA-1">>, K}
                          end,
    [element("scram-credentials", [{"xmlns", <<"urn:xmpp:pie:0#scram">>}, {"mechanism", Mechanism}],
             [element("iter-count", [], integer_to_list(number(Count))), element("salt", [], text(Salt)),
              element("server-key", [], text(ServerKey)), element("stored-key", [], text(Stored))])
     || ServerKey =/= <<>>] ++
        [Xml || {<<"scram:", What/binary>>, Xml} <- roost_portable:kept(<<"user:", User/binary>>),
                hd(binary:split(What, <<" ">>)) =:= Key] ++
        [element("disabled", [{"xmlns", <<"urn:roost:portable:1">>}], []) || Disabled =/= []].

%% Who only asked to be let in is no contact yet (RFC 6121 §3.1.3), but a pending request.
roster(User) ->
    Rows = rows(["SELECT jid, nick, subscription, ask, askmessage FROM rosterusers WHERE username=", quote(User),
                 " ORDER BY jid"]),
    Groups = maps:groups_from_list(
        fun([Jid, _]) -> Jid end, fun([_, Group]) -> Group end,
        rows(["SELECT jid, grp FROM rostergroups WHERE username=", quote(User), " ORDER BY jid, grp"])),
    Kept = roost_portable:kept(<<"user:", User/binary>>),
    Approved = maps:from_list([{Jid, true} || {<<"approved:", Jid/binary>>, _} <- Kept]),
    Items = [element("item", [{"jid", Jid}, {"name", case Nick of <<>> -> none; _ -> Nick end},
                              {"subscription", subscription(Subscription)},
                              {"ask", case lists:member(Ask, [<<"O">>, <<"B">>, <<"S">>]) of
                                          true -> <<"subscribe">>;
                                          false -> none
                                      end},
                              {"approved", case maps:is_key(Jid, Approved) of true -> <<"true">>; false -> none end}],
                     [element("group", [], text(Group)) || Group <- maps:get(Jid, Groups, [])])
             || [Jid, Nick, Subscription, Ask, _] <- Rows, {Subscription, Ask} =/= {<<"N">>, <<"I">>}],
    Pending = [request(Jid, Message, Kept) || [Jid, _, _, Ask, Message] <- Rows, lists:member(Ask, [<<"I">>, <<"B">>])],
    [[element("query", [{"xmlns", ?NS_ROSTER}], Items) || Items =/= []], Pending].

%% ejabberd knows its words only; one that came with an import is as it was.
request(Jid, Message, Kept) ->
    case lists:keyfind(<<"pending:", Jid/binary, " ", Message/binary>>, 1, Kept) of
        {_, Xml} -> Xml;
        false -> element("presence", [{"xmlns", ?NS_CLIENT}, {"from", Jid}, {"type", <<"subscribe">>}],
                         [element("status", [], text(Message)) || Message =/= <<>>])
    end.

subscription(<<"B">>) -> <<"both">>;
subscription(<<"T">>) -> <<"to">>;
subscription(<<"F">>) -> <<"from">>;
subscription(_) -> <<"none">>.

vcard(User) ->
    [in_order(Xml) || [Xml] <- rows(["SELECT vcard FROM vcard WHERE username=", quote(User)])].

%% ejabberd puts a photo that it makes of an avatar into another order than XEP-0054 §16.1.
in_order(Xml) ->
    case {binary:match(Xml, <<"<PHOTO><BINVAL>">>), roost_portable_xml:parse(Xml)} of
        {{_, _}, {ok, #xmlel{children = Children} = Card}} -> roost_portable_xml:raw(Card#xmlel{children = [photo(C) || C <- Children]});
        _ -> Xml
    end.

photo(#xmlel{name = <<"PHOTO">>, children = [Data, #xmlel{name = <<"TYPE">>} = Type]} = Photo) ->
    Photo#xmlel{children = [Type, Data]};
photo(Other) ->
    Other.

private(User) ->
    Found = rows(["SELECT data FROM private_storage WHERE username=", quote(User), " ORDER BY namespace"]),
    [element("query", [{"xmlns", ?NS_PRIVATE}], Found) || Found =/= []].

%% XEP-0191: ejabberd keeps it in the default privacy list.
blocklist(User) ->
    Found = rows(["SELECT d.value FROM privacy_list_data d, privacy_list l, privacy_default_list f WHERE l.id = d.id"
                  " AND f.username = l.username AND f.name = l.name AND d.t='j' AND d.action='d' AND d.match_all"
                  " AND l.username=", quote(User), " ORDER BY d.value"]),
    [element("blocklist", [{"xmlns", ?NS_BLOCKING}], [element("item", [{"jid", Jid}], []) || [Jid] <- Found])
     || Found =/= []].

%% XEP-0016, if there is more than what a block list says.
privacy(User) ->
    Lists = rows(["SELECT name, id FROM privacy_list WHERE username=", quote(User), " ORDER BY name"]),
    Default = rows(["SELECT name FROM privacy_default_list WHERE username=", quote(User)]),
    Full = [{Name, rows(["SELECT t, value, action, ord, match_all, match_iq, match_message, match_presence_in,"
                         " match_presence_out FROM privacy_list_data WHERE id=", integer_to_list(number(Id)),
                         " ORDER BY ord"])} || [Name, Id] <- Lists],
    case lists:all(fun({Name, Rules}) -> [[Name]] =:= Default andalso lists:all(fun is_block/1, Rules) end, Full) of
        true ->
            [];
        false ->
            element("query", [{"xmlns", ?NS_PRIVACY}],
                    [[element("default", [{"name", Name}], []) || [Name] <- Default],
                     [element("list", [{"name", Name}], [rule(R) || R <- Rules]) || {Name, Rules} <- Full]])
    end.

is_block([<<"j">>, _, <<"d">>, _, All | _]) -> yes(All);
is_block(_) -> false.

rule([Type, Value, Action, Order, All | Matches]) ->
    element("item", [{"type", case Type of <<"j">> -> <<"jid">>; <<"g">> -> <<"group">>; <<"s">> -> <<"subscription">>;
                                           _ -> none end},
                     {"value", case Type of <<"n">> -> none; _ -> Value end},
                     {"action", case Action of <<"d">> -> <<"deny">>; _ -> <<"allow">> end},
                     {"order", case Order of _ when is_binary(Order) -> Order; _ -> integer_to_binary(Order) end}],
            [element(Name, [], []) || not yes(All),
                                      {Name, Match} <- lists:zip(["iq", "message", "presence-in", "presence-out"], Matches),
                                      yes(Match)]).

yes(Value) -> lists:member(Value, [1, <<"1">>, true, <<"t">>]).

offline(User) ->
    Found = rows(["SELECT xml FROM spool WHERE username=", quote(User), " ORDER BY seq"]),
    [element("offline-messages", [], [waiting(Xml) || [Xml] <- Found]) || Found =/= []].

%% The time of storage comes last and without ejabberd's words, which other servers would not keep.
waiting(Xml) ->
    Host = host(),
    {ok, #xmlel{children = Children} = Message} = roost_portable_xml:parse(Xml),
    IsOwn = fun(#xmlel{name = <<"delay">>} = D) -> roost_portable_xml:attribute(<<"from">>, D) =:= Host; (_) -> false end,
    {Own, Others} = lists:partition(IsOwn, Children),
    roost_portable_xml:raw(Message#xmlel{children = Others ++ [D#xmlel{children = []} || D <- Own]}).

%% XEP-0313 §6.1.
preferences(User) ->
    [element("prefs", [{"xmlns", ?NS_MAM_2}, {"default", Default}],
             [element("always", [], jids(Always)), element("never", [], jids(Never))])
     || [Default, Always, Never] <- rows(["SELECT def, always, never FROM archive_prefs WHERE username=", quote(User)])].

jids(Term) ->
    [element("jid", [], text(jid:encode(Jid))) || Jid <- ejabberd_sql:decode_term(Term)].

%% What came from elsewhere and ejabberd has no place for: whole elements.
kept(User) ->
    [Xml || {<<"element:", _/binary>>, Xml} <- roost_portable:kept(<<"user:", User/binary>>)].
