%%% One room as <room xmlns='urn:roost:portable:1'/>, for roost_control: settings as a form of XEP-0045's names (§10.2),
%%% subject, affiliations with reasons, and the rest.
%%%
%%% A room that nobody has in memory is read from the database; one that runs is asked, so nothing is lost that is
%%% not written yet. What ejabberd has no place for is kept and leaves with the next export.
-module(roost_portable_room).

-export([export/1, import/1]).

-import(roost_portable, [host/0, rooms_host/0]).
-import(roost_portable_xml, [element/3, raw/1, text/1, named/2, attribute/2, attribute/3, cdata/1, yes/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").
-include("mod_muc_room.hrl").

-define(OURS, <<"urn:roost:portable:1">>).
-define(ROOMCONFIG, <<"http://jabber.org/protocol/muc#roomconfig">>).

%% {Field, Kind, Key of #config{}}; those of "effective" are made of two.
fields() ->
    [{<<"muc#roomconfig_roomname">>, text, title}, {<<"muc#roomconfig_roomdesc">>, text, description},
     {<<"muc#roomconfig_persistentroom">>, bool, persistent}, {<<"muc#roomconfig_publicroom">>, bool, public},
     {<<"public_list">>, bool, public_list}, {<<"muc#roomconfig_membersonly">>, bool, members_only},
     {<<"muc#roomconfig_changesubject">>, bool, allow_change_subj},
     {<<"muc#roomconfig_allowinvites">>, bool, allow_user_invites}, {<<"muc#roomconfig_lang">>, text, lang},
     {<<"muc#roomconfig_enablearchiving">>, bool, mam}, {<<"muc#roomconfig_enablelogging">>, bool, logging},
     {<<"muc#roomconfig_maxusers">>, number, max_users}, {<<"muc#roomconfig_pubsub">>, text, pubsub},
     {<<"allow_private_messages">>, bool, allow_private_messages},
     {<<"allow_private_messages_from_visitors">>, [anyone, moderators, nobody], allow_private_messages_from_visitors},
     {<<"allow_query_users">>, bool, allow_query_users}, {<<"allow_subscription">>, bool, allow_subscription},
     {<<"muc#roomconfig_allowvisitorstatus">>, bool, allow_visitor_status},
     {<<"muc#roomconfig_allowvisitornickchange">>, bool, allow_visitor_nickchange},
     {<<"muc#roomconfig_allowvoicerequests">>, bool, allow_voice_requests},
     {<<"muc#roomconfig_voicerequestmininterval">>, number, voice_request_min_interval},
     {<<"muc#roomconfig_enable_hats">>, bool, enable_hats}, {<<"captcha_protected">>, bool, captcha_protected}].

roles() ->
    [moderator, participant, visitor].

export(#{<<"room">> := Name}) ->
    Options = options(Name),
    Kept = roost_portable:kept(<<"room:", Name/binary>>),
    iolist_to_binary(
        element("room", [{"xmlns", ?OURS}, {"name", Name}],
                [settings(Options, [Xml || {<<"field:", _/binary>>, Xml} <- Kept]), subject(Name, Options, Kept),
                 affiliations(Options, Kept), hats(Options), subscribers(Options),
                 case proplists:get_value(vcard, Options, <<>>) of <<>> -> []; VCard -> VCard end,
                 [Xml || {<<"element:", _/binary>>, Xml} <- Kept]])).

options(Name) ->
    case mod_muc:find_online_room(Name, rooms_host()) of
        {ok, Pid} ->
            {ok, State} = mod_muc_room:get_state(Pid),
            running(State);
        error ->
            case mod_muc:restore_room(host(), rooms_host(), Name) of
                error ->
                    throw({refused, <<"there is no room ", Name/binary>>});
                Options ->
                    Config = maps:from_list(config(#config{lang = <<>>})),
                    maps:to_list(maps:merge(Config, maps:from_list(Options)))
            end
    end.

config(Config) ->
    [{Key, case gb_sets:is_set(Value) of true -> gb_sets:to_list(Value); false -> Value end}
     || {Key, Value} <- lists:zip(record_info(fields, config), tl(tuple_to_list(Config)))].

running(#state{config = Config} = State) ->
    Subscribers = maps:values(State#state.muc_subscribers#muc_subscribers.subscribers),
    [{affiliations, maps:to_list(State#state.affiliations)}, {roles, maps:to_list(State#state.roles)},
     {subject, State#state.subject}, {subject_author, State#state.subject_author},
     {hats_users, [{Who, maps:to_list(Hats)} || {Who, Hats} <- maps:to_list(State#state.hats_users)]},
     {subscribers, [{S#subscriber.jid, S#subscriber.nick, S#subscriber.nodes} || S <- Subscribers]} | config(Config)].

settings(Options, Others) ->
    Get = fun(Key) -> proplists:get_value(Key, Options) end,
    %% ejabberd's "moderated" silences nobody as long as newcomers are participants by default.
    Effective = Get(moderated) andalso not Get(members_by_default),
    Fields = [field(Var, [written(Kind, Get(Key))]) || {Var, Kind, Key} <- fields()] ++
        [field(<<"muc#roomconfig_moderatedroom">>, [written(bool, Effective)]),
         field(<<"members_by_default">>, [written(bool, Get(members_by_default))]),
         field(<<"ejabberd#moderated">>, [written(bool, Get(moderated))]),
         field(<<"muc#roomconfig_whois">>, [case Get(anonymous) of true -> <<"moderators">>; false -> <<"anyone">> end]),
         field(<<"muc#roomconfig_passwordprotectedroom">>, [written(bool, Get(password_protected))]),
         field(<<"muc#roomconfig_roomsecret">>, [case Get(password_protected) of true -> Get(password); false -> <<>> end]),
         field(<<"muc#roomconfig_presencebroadcast">>, [atom_to_binary(Role) || Role <- Get(presence_broadcast)]),
         field(<<"muc#roomconfig_captcha_whitelist">>, [jid:encode(Jid) || Jid <- Get(captcha_whitelist)])],
    Type = element("field", [{"var", <<"FORM_TYPE">>}, {"type", <<"hidden">>}], element("value", [], ?ROOMCONFIG)),
    element("x", [{"xmlns", ?NS_XDATA}, {"type", <<"submit">>}], [Type, Fields, Others]).

field(Var, Values) ->
    element("field", [{"var", Var}], [element("value", [], text(Value)) || Value <- Values]).

written(bool, true) -> <<"1">>;
written(bool, _) -> <<"0">>;
written(text, Text) -> Text;
written(number, Number) when is_integer(Number) -> integer_to_binary(Number);
written(_, Word) -> atom_to_binary(Word).

%% ejabberd does not know when it was set; that is kept for as long as it is the same.
subject(Name, Options, Kept) ->
    By = case proplists:get_value(subject_author, Options, <<>>) of
             <<>> -> none;
             Nick -> <<Name/binary, "@", (rooms_host())/binary, "/", Nick/binary>>
         end,
    Texts = case proplists:get_value(subject, Options, []) of
                Text when is_binary(Text) -> [#text{data = Text}];
                Found -> Found
            end,
    [case lists:keyfind(<<"subject:", Data/binary>>, 1, Kept) of
         {_, Xml} -> Xml;
         false -> element("subject", [{"by", By}, {"xml:lang", case Language of <<>> -> none; _ -> Language end}], text(Data))
     end || #text{lang = Language, data = Data} <- Texts, Data =/= <<>>].

affiliations(Options, Kept) ->
    Affiliations = maps:from_list([{Who, pair(A)} || {Who, A} <- proplists:get_value(affiliations, Options, [])]),
    Roles = maps:from_list([{Who, element(1, pair(R))} || {Who, R} <- proplists:get_value(roles, Options, [])]),
    Nicks = maps:from_list([{Jid, Nick} || {<<"nick:", Jid/binary>>, Nick} <- Kept]),
    Everyone = lists:sort([{jid:encode(Who), Who} || Who <- lists:usort(maps:keys(Affiliations) ++ maps:keys(Roles))]),
    element("affiliations", [],
            [element("item", [{"jid", Jid}, {"affiliation", atom_to_binary(A)}, {"nick", maps:get(Jid, Nicks, none)},
                              {"role", case maps:get(Who, Roles, none) of none -> none; R -> atom_to_binary(R) end}],
                     [element("reason", [], text(Reason)) || Reason =/= <<>>])
             || {Jid, Who} <- Everyone, {A, Reason} <- [maps:get(Who, Affiliations, {none, <<>>})],
                A =/= none orelse is_map_key(Who, Roles)]).

pair({Word, Reason}) -> {Word, Reason};
pair(Word) -> {Word, <<>>}.

hats(Options) ->
    Found = [element("hat", [{"jid", jid:encode(Who)}, {"uri", Uri}, {"title", Title}], [])
             || {Who, Hats} <- lists:sort(proplists:get_value(hats_users, Options, [])), {Uri, Title} <- lists:sort(Hats)],
    [element("hats", [], Found) || Found =/= []].

%% ejabberd's own "MucSub".
subscribers(Options) ->
    Found = lists:sort([{jid:encode(Jid), Nick, lists:sort(Nodes)}
                        || {Jid, Nick, Nodes} <- proplists:get_value(subscribers, Options, [])]),
    [element("subscribers", [], [element("subscriber", [{"jid", Jid}, {"nick", Nick}],
                                         [element("node", [], text(Node)) || Node <- Nodes]) || {Jid, Nick, Nodes} <- Found])
     || Found =/= []].

%%% In.

import(#{<<"xml">> := Xml, <<"replace">> := Replace}) ->
    {Element, Name} = read(Xml),
    try
        import(Name, Element, Replace)
    catch
        error:{bad_jid, Jid} -> throw({invalid, <<"it is no address: ", Jid/binary>>})
    end.

import(Name, Element, Replace) ->
    {Read, Strange} = config_of(Element),
    {Affiliations, Refused} = affiliations_of(Element),
    keep(Name, Element, Strange),
    Notes = [{noted, <<"room ", Name/binary, ", setting ", (attribute(<<"var">>, F))/binary>>, <<"ejabberd has no such setting">>}
             || F <- Strange] ++ noted(Name, Element),
    Known = case mod_muc:unhibernate_room(host(), rooms_host(), Name) of {ok, Pid} -> Pid; error -> none end,
    Events = case Known of
                 none -> create(Name, Element, Read, Affiliations);
                 _ -> merge(Name, Known, Read, Affiliations, Element, Replace)
             end,
    roost_portable:report(Events ++ Notes ++ Refused).

read(Xml) ->
    case roost_portable_xml:parse(Xml) of
        {ok, #xmlel{name = <<"room">>} = Element} ->
            roost_portable_xml:namespace(Element, <<>>) =:= ?OURS orelse throw({invalid, <<"it is no <room/>">>}),
            Name = attribute(<<"name">>, Element),
            Name =/= <<>> andalso jid:nodeprep(Name) =:= Name
                orelse throw({invalid, <<"ejabberd would change or refuse the name ", Name/binary>>}),
            {Element, Name};
        _ ->
            throw({invalid, <<"it is no <room/>">>})
    end.

%% {[{Key, Value}], Fields that ejabberd has not}
config_of(Element) ->
    Fields = [F || X <- named(<<"x">>, Element), F <- named(<<"field">>, X), attribute(<<"var">>, F) =/= <<"FORM_TYPE">>],
    Given = maps:from_list([{attribute(<<"var">>, F), [cdata(V) || V <- named(<<"value">>, F)]} || F <- Fields]),
    One = fun(Var) -> case maps:get(Var, Given, none) of [Value | _] -> Value; [] -> <<>>; none -> none end end,
    Plain = [{Key, Value} || {Var, Kind, Key} <- fields(), Text <- [One(Var)], Text =/= none,
                             {ok, Value} <- [understood(Kind, Text)]],
    Moderated = case {One(<<"muc#roomconfig_moderatedroom">>), One(<<"members_by_default">>), One(<<"ejabberd#moderated">>)} of
                    {none, _, _} -> [];
                    {_, Default, Raw} when Default =/= none, Raw =/= none ->
                        [{moderated, yes(Raw)}, {members_by_default, yes(Default)}];
                    {Text, _, _} -> [{moderated, yes(Text)}, {members_by_default, not yes(Text)}]
                end,
    Whois = [{anonymous, Text =/= <<"anyone">>} || Text <- [One(<<"muc#roomconfig_whois">>)], Text =/= none],
    Secret = [S || Text <- [One(<<"muc#roomconfig_roomsecret">>)], Text =/= none,
                   S <- [{password, Text}, {password_protected, Text =/= <<>>}]],
    Broadcast = [{presence_broadcast, [R || R <- roles(), lists:member(atom_to_binary(R), Words)]}
                 || Words <- [maps:get(<<"muc#roomconfig_presencebroadcast">>, Given, none)], Words =/= none],
    Captcha = [{captcha_whitelist, [jid:tolower(jid:decode(J)) || J <- Jids]}
               || Jids <- [maps:get(<<"muc#roomconfig_captcha_whitelist">>, Given, none)], Jids =/= none],
    VCard = [{vcard, raw(V)} || V <- named(<<"vCard">>, Element)],
    Own = [Var || {Var, _, _} <- fields()] ++
        [<<"muc#roomconfig_", N/binary>> || N <- [<<"moderatedroom">>, <<"whois">>, <<"roomsecret">>, <<"passwordprotectedroom">>,
                                                  <<"presencebroadcast">>, <<"captcha_whitelist">>]] ++
        [<<"members_by_default">>, <<"ejabberd#moderated">>],
    {Plain ++ Moderated ++ Whois ++ Secret ++ Broadcast ++ Captcha ++ VCard,
     [F || F <- Fields, not lists:member(attribute(<<"var">>, F), Own)]}.

understood(bool, Text) -> {ok, yes(Text)};
understood(text, Text) -> {ok, Text};
understood(number, Text) ->
    case {string:to_integer(Text), Text} of
        {{Number, <<>>}, _} when is_integer(Number), Number >= 0 -> {ok, Number};
        {_, <<"none">>} -> {ok, none};
        _ -> error
    end;
understood(Words, Text) ->
    case [W || W <- Words, atom_to_binary(W) =:= Text] of
        [Word] -> {ok, Word};
        [] -> error
    end.

%% {[{Who, Affiliation, Reason, Role}], Refusals}
affiliations_of(Element) ->
    lists:foldr(
        fun(Item, {Found, Refused}) ->
            Jid = attribute(<<"jid">>, Item),
            try
                {User, Server, _} = jid:tolower(jid:decode(Jid)),
                true = lists:member(Affiliation = attribute(<<"affiliation">>, Item, <<"none">>),
                                    [<<"owner">>, <<"admin">>, <<"member">>, <<"outcast">>, <<"none">>]),
                Role = [R || R <- roles(), atom_to_binary(R) =:= attribute(<<"role">>, Item)],
                Reason = iolist_to_binary([cdata(R) || R <- named(<<"reason">>, Item)]),
                {[{{User, Server, <<>>}, binary_to_atom(Affiliation), Reason, Role} | Found], Refused}
            catch
                _:_ -> {Found, [{refused, <<"affiliation of ", Jid/binary>>, <<"it is no address, or no affiliation">>} | Refused]}
            end
        end, {[], []}, [I || A <- named(<<"affiliations">>, Element), I <- named(<<"item">>, A)]).

keep(Name, Element, Strange) ->
    Owner = <<"room:", Name/binary>>,
    [roost_portable:keep(Owner, <<"field:", (attribute(<<"var">>, F))/binary>>, raw(F)) || F <- Strange],
    [roost_portable:keep(Owner, <<"nick:", (attribute(<<"jid">>, I))/binary>>, Nick)
     || A <- named(<<"affiliations">>, Element), I <- named(<<"item">>, A), Nick <- [attribute(<<"nick">>, I)], Nick =/= <<>>],
    [roost_portable:keep(Owner, <<"subject:", (cdata(S))/binary>>, raw(bare(S)))
     || S <- named(<<"subject">>, Element), attribute(<<"stamp">>, S) =/= <<>>],
    [roost_portable:keep(Owner, <<"element:", (E#xmlel.name)/binary>>, raw(bare(E))) || E <- strangers(Element)].

%% Without our namespace, which the element around it has.
bare(#xmlel{attrs = Attributes} = Element) ->
    Element#xmlel{attrs = lists:delete({<<"xmlns">>, ?OURS}, Attributes)}.

strangers(#xmlel{children = Children}) ->
    [E || #xmlel{name = N} = E <- Children, not lists:member(N, [<<"x">>, <<"subject">>, <<"affiliations">>, <<"hats">>,
                                                                 <<"subscribers">>, <<"vCard">>])].

noted(Name, Element) ->
    [{noted, <<"<", (E#xmlel.name)/binary, "/> of room ", Name/binary>>, <<"ejabberd has no place for it">>}
     || E <- strangers(Element)] ++
        [{noted, <<"the reserved nickname of ", (attribute(<<"jid">>, I))/binary, " in room ", Name/binary>>,
          <<"ejabberd has no place for it">>}
         || A <- named(<<"affiliations">>, Element), I <- named(<<"item">>, A), attribute(<<"nick">>, I) =/= <<>>].

subject_of(Element) ->
    Subjects = named(<<"subject">>, Element),
    Nick = case [jid:decode(By) || S <- Subjects, By <- [attribute(<<"by">>, S)], By =/= <<>>] of
               [#jid{resource = Resource} | _] -> Resource;
               [] -> <<>>
           end,
    {[#text{lang = attribute(<<"xml:lang">>, S), data = cdata(S)} || S <- Subjects], Nick}.

create(Name, Element, Config, Affiliations) ->
    Rest = [{affiliations, [{Who, {A, Reason}} || {Who, A, Reason, _} <- Affiliations, A =/= none]},
            {subscribers, subscribers_of(Element)} | quiet(Element, Affiliations)],
    store(Name, mod_muc_opt:default_room_options(host()) ++ Config ++ Rest),
    [made | [made || _ <- Affiliations]].

store(Name, Options) ->
    Defaults = maps:from_list(config(#config{lang = <<>>})),
    Whole = maps:merge(Defaults, (maps:from_list(Options))#{hibernation_time => undefined}),
    {atomic, _} = mod_muc:store_room(host(), rooms_host(), Name, maps:to_list(Whole)),
    {ok, _} = mod_muc:unhibernate_room(host(), rooms_host(), Name).

%% What a running room cannot be told.
quiet(Element, Affiliations) ->
    {Subject, Author} = subject_of(Element),
    Hats = maps:groups_from_list(fun({Who, _}) -> Who end, fun({_, Hat}) -> Hat end,
                                 [{jid:tolower(jid:decode(attribute(<<"jid">>, H))),
                                   {attribute(<<"uri">>, H), attribute(<<"title">>, H)}}
                                  || Hs <- named(<<"hats">>, Element), H <- named(<<"hat">>, Hs)]),
    [{roles, lists:sort([{Who, R} || {Who, _, _, [R]} <- Affiliations])}, {subject, Subject}, {subject_author, Author},
     {hats_users, [{Who, lists:sort(H)} || {Who, H} <- lists:sort(maps:to_list(Hats))]}].

subscribers_of(Element) ->
    [{jid:decode(attribute(<<"jid">>, S)), attribute(<<"nick">>, S), [cdata(N) || N <- named(<<"node">>, S)]}
     || Ss <- named(<<"subscribers">>, Element), S <- named(<<"subscriber">>, Ss)].

%% A room that is there: it may have people in it, who are told of each change.
merge(Name, Pid, Read, Affiliations, Element, Replace) ->
    {ok, State} = mod_muc_room:get_state(Pid),
    Now = config(State#state.config),
    Other = [KV || {Key, Value} = KV <- Read, proplists:get_value(Key, Now) =/= Value],
    Events = case {Other, Replace} of
                 {[], _} -> [];
                 {_, false} -> [{skipped, <<"room ", Name/binary, ", ", (atom_to_binary(K))/binary>>, <<"it is set otherwise">>}
                                || {K, _} <- Other];
                 {_, true} ->
                     {ok, _} = mod_muc_room:set_config(Pid, changed(Other, State#state.config)),
                     [changed || _ <- Other]
             end,
    %% Before what ends the room's process: the compiler works out the tail of a comprehension first.
    Affiliated = [E || A <- Affiliations, E <- affiliation(Name, Pid, A, State, Replace)],
    Events ++ Affiliated ++ quietly(Name, Pid, quiet(Element, Affiliations), State, Replace).

%% These are written while the room sleeps, and so not as long as there is somebody in it.
quietly(Name, Pid, Wanted, State, Replace) ->
    Is = running(State),
    Sorted = fun(subject, Value) -> xmpp:get_text(Value);
                (hats_users, Value) -> lists:sort([{Who, lists:sort(H)} || {Who, H} <- Value]);
                (roles, Value) -> lists:sort([{Who, element(1, pair(R))} || {Who, R} <- Value]);
                (_, Value) -> Value
             end,
    Other = [KV || {Key, Value} = KV <- Wanted,
                   Sorted(Key, Value) =/= Sorted(Key, proplists:get_value(Key, Is))],
    case {Other, Replace, maps:size(State#state.users)} of
        {[], _, _} ->
            [];
        {_, true, 0} ->
            Watch = monitor(process, Pid),
            mod_muc_room:shutdown(Pid),
            receive {'DOWN', Watch, _, _, _} -> ok after 5000 -> throw({refused, <<"the room does not end">>}) end,
            gone(Name, 100),
            Options = mod_muc:restore_room(host(), rooms_host(), Name),
            store(Name, Options ++ Other),
            [changed || _ <- Other];
        {_, _, Occupants} ->
            Why = case Replace of false -> <<"it is there otherwise">>;
                                  true -> <<"there are ", (integer_to_binary(Occupants))/binary, " in the room">> end,
            [{skipped, <<"room ", Name/binary, ", ", (atom_to_binary(K))/binary>>, Why} || {K, _} <- Other]
    end.

%% mod_muc takes the name out of its table a moment after the room's process has ended.
gone(_, 0) ->
    throw({refused, <<"ejabberd does not forget the room">>});
gone(Name, Left) ->
    case mod_muc:find_online_room(Name, rooms_host()) of
        error -> ok;
        _ -> timer:sleep(20), gone(Name, Left - 1)
    end.

changed(Pairs, Config) ->
    Positions = maps:from_list(lists:zip(record_info(fields, config), lists:seq(2, record_info(size, config)))),
    lists:foldl(fun({captcha_whitelist, Jids}, C) -> C#config{captcha_whitelist = gb_sets:from_list(Jids)};
                   ({Key, Value}, C) -> setelement(maps:get(Key, Positions), C, Value)
                end, Config, Pairs).

affiliation(Name, Pid, {Who, Affiliation, Reason, _}, #state{affiliations = Was}, Replace) ->
    Set = fun(Event) ->
              case mod_muc_room:change_item(Pid, jid:make(Who), affiliation, Affiliation, Reason) of
                  {ok, _} -> [Event];
                  {error, _} -> [{refused, <<"affiliation of ", (jid:encode(Who))/binary, " in ", Name/binary>>,
                                  <<"ejabberd does not allow it">>}]
              end
          end,
    case {pair(maps:get(Who, Was, none)), Replace} of
        {{none, _}, _} when Affiliation =:= none -> [];
        {{Affiliation, Reason}, _} -> [];
        {{none, _}, _} -> Set(made);
        {_, false} -> [{skipped, <<"affiliation of ", (jid:encode(Who))/binary, " in ", Name/binary>>, <<"it has another one">>}];
        {_, true} -> Set(changed)
    end.
