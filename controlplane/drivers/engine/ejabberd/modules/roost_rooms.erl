%%% Rooms of the instance's MUC component, for roost_control: those in memory and those that sleep in the database.
-module(roost_rooms).

-export([list/1, get/1, create/1, set_settings/1, set_affiliation/1, delete/1, names/0, whole/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").
-include("mod_muc_room.hrl").

list(_) ->
    [describe(Name) || Name <- names()].

%% Every room's name, sorted.
names() ->
    Query = ["SELECT name FROM muc_room WHERE host='", component(), "'"],
    {selected, _, Stored} = ejabberd_sql:sql_query(host(), Query),
    lists:usort([Name || [Name] <- Stored] ++ [Name || {Name, _, _} <- mod_muc:get_online_rooms(component())]).

get(Arguments) ->
    case find(room(Arguments)) of
        error ->
            null;
        {ok, Pid} ->
            #state{affiliations = Affiliations} = State = state(Pid),
            (describe_state(State))#{affiliations => maps:fold(fun affiliation/3, [], Affiliations)}
    end.

affiliation(_, none, Found) -> Found;
affiliation(_, {none, _}, Found) -> Found;
affiliation(Who, {Affiliation, _}, Found) -> affiliation(Who, Affiliation, Found);
affiliation(Who, Affiliation, Found) -> [#{jid => jid:encode(Who), affiliation => Affiliation} | Found].

create(#{<<"settings">> := Settings, <<"owner">> := Owner} = Arguments) ->
    Name = room(Arguments),
    case find(Name) of
        {ok, _} ->
            false;
        error ->
            {User, Server, _} = jid:tolower(jid:decode(Owner)),
            Defaults = mod_muc_opt:default_room_options(host()),
            Wanted = [{affiliations, [{{User, Server, <<>>}, owner}]} | options(Settings)],
            Options = lists:ukeymerge(1, lists:keysort(1, Wanted), lists:keysort(1, Defaults)),
            case mod_muc:create_room(component(), Name, Options) of
                ok -> ok;
                {error, _} -> refuse("the room was not made", [])
            end,
            {ok, Pid} = find(Name),
            %% Stores it if it is persistent.
            {ok, _} = mod_muc_room:set_config(Pid, configured(Settings, config(Pid))),
            true
    end.

set_settings(#{<<"settings">> := Settings} = Arguments) ->
    Pid = existing(Arguments),
    Old = config(Pid),
    case configured(Settings, Old) of
        Old ->
            true;
        New ->
            {ok, _} = mod_muc_room:set_config(Pid, New),
            true
    end.

set_affiliation(#{<<"jid">> := Text, <<"affiliation">> := Word} = Arguments) ->
    Pid = existing(Arguments),
    Affiliation = maps:get(Word, #{<<"owner">> => owner, <<"admin">> => admin, <<"member">> => member,
                                   <<"none">> => none, <<"outcast">> => outcast}),
    case mod_muc_room:change_item(Pid, jid:decode(Text), affiliation, Affiliation, <<>>) of
        {ok, _} -> true;
        {error, _} -> refuse("ejabberd does not allow this affiliation", [])
    end.

delete(Arguments) ->
    Name = room(Arguments),
    case find(Name) of
        error ->
            false;
        {ok, Pid} ->
            Watch = monitor(process, Pid),
            mod_muc_room:destroy(Pid),
            receive {'DOWN', Watch, _, _, _} -> ok after 5000 -> refuse("the room does not end", []) end,
            forgotten(Name, 100)
    end.

%% mod_muc takes the name out of its table a moment after the room's process has ended.
forgotten(_, 0) ->
    refuse("ejabberd does not forget the room", []);
forgotten(Name, Left) ->
    case mod_muc:find_online_room(Name, component()) of
        error -> true;
        _ -> timer:sleep(20), forgotten(Name, Left - 1)
    end.

describe(Name) ->
    case mod_muc:find_online_room(Name, component()) of
        {ok, Pid} ->
            describe_state(state(Pid));
        error ->
            case mod_muc:restore_room(host(), component(), Name) of
                error -> refuse("the room ~ts has just gone", [Name]);
                Options -> describe_options(Name, Options)
            end
    end.

%% Settings, subject and affiliations of a room that is kept; none for one that is not, or has just gone.
whole(Name) ->
    try
        {Described, Affiliations} =
            case mod_muc:find_online_room(Name, component()) of
                {ok, Pid} ->
                    State = state(Pid),
                    {describe_state(State), maps:to_list(State#state.affiliations)};
                error ->
                    Options = mod_muc:restore_room(host(), component(), Name),
                    true = is_list(Options),
                    {describe_options(Name, Options), proplists:get_value(affiliations, Options, [])}
            end,
        #{settings := #{persistent := true} = Settings, subject := Subject} = Described,
        Kept = [{jid:encode(Who), A} || {Who, Found} <- Affiliations, (A = plain(Found)) =/= none],
        #{settings => Settings, subject => Subject, affiliations => maps:from_list(Kept)}
    catch
        _:_ -> none
    end.

plain({Affiliation, _Reason}) -> Affiliation;
plain(Affiliation) -> Affiliation.

describe_state(#state{room = Name, config = Config, users = Users, subject = Subject}) ->
    #{room => Name, occupants => maps:size(Users), subject => xmpp:get_text(Subject), settings => settings(Config)}.

describe_options(Name, Options) ->
    Stored = fun(Key, Default) -> proplists:get_value(Key, Options, Default) end,
    Config = #config{title = Stored(title, <<>>), description = Stored(description, <<>>),
                     members_only = Stored(members_only, false), moderated = Stored(moderated, true),
                     members_by_default = Stored(members_by_default, true), anonymous = Stored(anonymous, true),
                     public = Stored(public, true), persistent = Stored(persistent, false),
                     lang = Stored(lang, <<>>), mam = Stored(mam, false)},
    Subject = case Stored(subject, []) of Text when is_binary(Text) -> Text; Texts -> xmpp:get_text(Texts) end,
    #{room => Name, occupants => 0, subject => Subject, settings => settings(Config)}.

settings(Config) ->
    #{title => Config#config.title,
      description => Config#config.description,
      access => case Config#config.members_only of true -> members; false -> open end,
      %% ejabberd's "moderated" silences nobody as long as newcomers are participants by default.
      moderated => Config#config.moderated andalso not Config#config.members_by_default,
      anonymity => case Config#config.anonymous of true -> semi; false -> none end,
      listed => Config#config.public,
      persistent => Config#config.persistent,
      language => Config#config.lang,
      archived => Config#config.mam}.

configured(S, Config) ->
    Moderated = maps:get(<<"moderated">>, S),
    Config#config{title = maps:get(<<"title">>, S),
                  description = maps:get(<<"description">>, S),
                  members_only = maps:get(<<"access">>, S) =:= <<"members">>,
                  moderated = Moderated,
                  members_by_default = not Moderated,
                  anonymous = maps:get(<<"anonymity">>, S) =:= <<"semi">>,
                  public = maps:get(<<"listed">>, S),
                  persistent = maps:get(<<"persistent">>, S),
                  lang = maps:get(<<"language">>, S),
                  mam = maps:get(<<"archived">>, S)}.

options(S) ->
    [{persistent, maps:get(<<"persistent">>, S)}].

find(Name) ->
    mod_muc:unhibernate_room(host(), component(), Name).

existing(Arguments) ->
    Name = room(Arguments),
    case find(Name) of
        {ok, Pid} -> Pid;
        error -> refuse("there is no room ~ts", [Name])
    end.

state(Pid) ->
    {ok, State} = mod_muc_room:get_state(Pid),
    State.

config(Pid) ->
    {ok, Config} = mod_muc_room:get_config(Pid),
    Config.

room(#{<<"room">> := Name}) ->
    case jid:nodeprep(Name) of
        Name when Name =/= <<>> -> Name;
        _ -> throw({invalid, <<"ejabberd would change or refuse the name ", Name/binary>>})
    end.

host() ->
    ejabberd_config:get_myname().

component() ->
    hd(gen_mod:get_module_opt_hosts(host(), mod_muc)).

refuse(Format, Values) ->
    throw({refused, unicode:characters_to_binary(io_lib:format(Format, Values))}).
