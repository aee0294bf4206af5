%%% XEP-0455: says in service discovery where clients read of outages, which is never on this server.
%%%
%%% mod_disco's own server_info goes into the form of XEP-0157 and no other. What is there to be read is Roost's
%%% matter; the option is mod_roost's and read when it is asked for, so a reload takes it over.
-module(roost_outage).

-export([start/1, stop/1, info/5]).

-include_lib("p1_xmpp/include/xmpp.hrl").

%% Behind mod_disco (100), which does not keep what others have found.
-define(BEHIND, 110).

start(Host) ->
    ejabberd_hooks:add(disco_info, Host, ?MODULE, info, ?BEHIND).

stop(Host) ->
    ejabberd_hooks:delete(disco_info, Host, ?MODULE, info, ?BEHIND).

%% Of the server itself: mod_disco asks for its answers, and mod_caps (undefined) for the hash over the same.
info(Found, Host, Module, <<>>, _) when Module =:= mod_disco; Module =:= undefined ->
    case gen_mod:get_module_opt(Host, mod_roost, outage_url) of
        <<>> -> Found;
        Url -> [form(Url) | Found]
    end;
info(Found, _, _, _, _) ->
    Found.

form(Url) ->
    #xdata{type = result,
           fields = [#xdata_field{type = hidden, var = <<"FORM_TYPE">>, values = [<<"urn:xmpp:sos:0">>]},
                     #xdata_field{type = 'list-multi', var = <<"external-status-addresses">>, values = [Url]}]}.
