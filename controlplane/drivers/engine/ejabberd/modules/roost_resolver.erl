%%% Addresses of peers from the nameserver of the tenant's configuration.
%%%
%%% For SRV records ejabberd asks Erlang's resolver, which inetrc points to that nameserver; but from SRV targets
%%% to addresses p1_xmpp 1.6 goes by the C library (net:getaddrinfo), which knows one nameserver for the whole
%%% machine. patched/0 makes a copy of xmpp_stream_out in which this one call comes here. It can go when p1_xmpp
%%% looks addresses up by inet_res again.
-module(roost_resolver).

-export([getaddrinfo/2, patched/0]).

%% As net:getaddrinfo/2, IPv6 first.
getaddrinfo(Host, Service) ->
    Port = list_to_integer(Service),
    case [entry(Family, Address, Port) || Family <- [inet6, inet], Address <- addresses(Host, Family)] of
        [] -> {error, nxdomain};
        Found -> {ok, Found}
    end.

addresses(Host, Family) ->
    case inet:getaddrs(Host, Family) of
        {ok, Addresses} -> [A || A <- Addresses, not is_mapped(A)];
        {error, _} -> []
    end.

is_mapped({0, 0, 0, 0, 0, 16#FFFF, _, _}) -> true;
is_mapped(_) -> false.

entry(Family, Address, Port) ->
    #{family => Family, protocol => tcp, type => stream,
      addr => #{family => Family, addr => Address, port => Port}}.

%% {Module, Forms} of the changed copy. Exits if there is not exactly one such call: then p1_xmpp is another one,
%% and somebody has to look.
patched() ->
    File = filename:join([code:lib_dir(p1_xmpp), "ebin", "xmpp_stream_out.beam"]),
    {ok, {Module, [{abstract_code, {raw_abstract_v1, Forms}}]}} = beam_lib:chunks(File, [abstract_code]),
    {Changed, 1} = change(Forms, 0),
    {Module, Changed}.

change({remote, Where, {atom, _, net}, {atom, _, getaddrinfo}}, Count) ->
    {{remote, Where, {atom, Where, ?MODULE}, {atom, Where, getaddrinfo}}, Count + 1};
change(Form, Count) when is_tuple(Form) ->
    {Parts, Total} = change(tuple_to_list(Form), Count),
    {list_to_tuple(Parts), Total};
change([First | Rest], Count) ->
    {Head, Some} = change(First, Count),
    {Tail, Total} = change(Rest, Some),
    {[Head | Tail], Total};
change(Other, Count) ->
    {Other, Count}.
