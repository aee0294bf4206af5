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

%% {Module, Beam}: the module's file with the atom "net" renamed in its table of atoms (1 ms; compiling it again
%% would take 250). Exits if that atom stands for anything but this one call: then p1_xmpp is another one, and
%% somebody has to look.
patched() ->
    File = filename:join([code:lib_dir(p1_xmpp), "ebin", "xmpp_stream_out.beam"]),
    {ok, {Module, [{imports, Imports}]}} = beam_lib:chunks(File, [imports]),
    [{net, getaddrinfo, 2}] = [I || {net, _, _} = I <- Imports],
    {ok, Module, Chunks} = beam_lib:all_chunks(File),
    {"AtU8", <<Count:32, Names/binary>>} = lists:keyfind("AtU8", 1, Chunks),
    Atoms = [case Name of <<"net">> -> ?MODULE_STRING; _ -> Name end || <<Size, Name:Size/binary>> <= Names],
    Count = length(Atoms),
    Table = [[iolist_size(Name), Name] || Name <- Atoms],
    Kept = [Chunk || {Id, _} = Chunk <- Chunks, Id =/= "AtU8", Id =/= "Dbgi", Id =/= "Docs"],
    {ok, Beam} = beam_lib:build_module([{"AtU8", iolist_to_binary([<<Count:32>> | Table])} | Kept]),
    {Module, Beam}.
