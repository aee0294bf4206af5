%%% The PROXY protocol in front of ejabberd's listeners, for the edge alone.
%%%
%%% ejabberd's own use_proxy_protocol believes a header from anybody, and reads it in the accepting process, so
%%% that one silent connection keeps all others waiting for ten seconds. Here each connection has its own
%%% process, whoever is not the edge is closed at once, and what follows the header is ejabberd's.
-module(roost_edge).

-export([start/3, start_link/3, accept/1, init/3, listen_options/1, listen_opt_type/2]).

-define(HEADER_TIMEOUT_MS, 5000).
-define(LARGEST_ADDRESSES, 2048). % addresses and TLVs; HAProxy sends some hundred bytes at most

start(Module, Socket, Options) ->
    {ok, proc_lib:spawn(?MODULE, init, [Module, Socket, Options])}.

start_link(Module, Socket, Options) ->
    {ok, proc_lib:spawn_link(?MODULE, init, [Module, Socket, Options])}.

accept(Pid) ->
    Pid ! accept,
    ok.

listen_options(Module) ->
    [{edge_addresses, []} | Module:listen_options()].

listen_opt_type(_Module, edge_addresses) ->
    econf:list(econf:ip());
listen_opt_type(Module, Option) ->
    Module:listen_opt_type(Option).

init(Module, Socket, Options) ->
    receive
        accept -> ok
    after ?HEADER_TIMEOUT_MS ->
        exit(normal)
    end,
    case from_edge(Socket, proplists:get_value(edge_addresses, Options, [])) andalso names(Socket) of
        {_, _} = Names ->
            hand_on(Module, Socket, [{sock_peer_name, Names} | proplists:delete(edge_addresses, Options)]);
        _ ->
            gen_tcp:close(Socket)
    end.

from_edge(Socket, Edges) ->
    case inet:peername(Socket) of
        {ok, {Address, _}} -> lists:member(Address, Edges);
        _ -> false
    end.

%% {our name, the client's name} from a header of version 2 (proxy-protocol.txt §2.2), or an error. ejabberd's own
%% decoder takes the client's first bytes for a part of a header without addresses.
names(Socket) ->
    case gen_tcp:recv(Socket, 16, ?HEADER_TIMEOUT_MS) of
        {ok, <<"\r\n\r\n\0\r\nQUIT\n", 2:4, Command:4, Kind, Size:16>>} when Size =< ?LARGEST_ADDRESSES ->
            case {Command, Kind, addresses(Socket, Size)} of
                {0, _, {ok, _}} ->
                    {element(2, {ok, _} = inet:sockname(Socket)), element(2, {ok, _} = inet:peername(Socket))};
                {1, 16#11, {ok, <<From:4/binary, To:4/binary, FromPort:16, ToPort:16, _/binary>>}} ->
                    {{ip(8, To), ToPort}, {ip(8, From), FromPort}};
                {1, 16#21, {ok, <<From:16/binary, To:16/binary, FromPort:16, ToPort:16, _/binary>>}} ->
                    {{ip(16, To), ToPort}, {ip(16, From), FromPort}};
                _ ->
                    error
            end;
        _ ->
            error
    end.

addresses(_, 0) -> {ok, <<>>};
addresses(Socket, Size) -> gen_tcp:recv(Socket, Size, ?HEADER_TIMEOUT_MS).

%% An IPv4 client whose edge reaches us over IPv6 is told as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2).
ip(16, <<0:80, 16#ffff:16, Address:4/binary>>) -> ip(8, Address);
ip(Bits, Binary) -> list_to_tuple([Part || <<Part:Bits>> <= Binary]).

hand_on(Module, Socket, Options) ->
    Started =
        case whereis(list_to_atom(atom_to_list(Module) ++ "_sup")) of
            undefined -> Module:start(gen_tcp, Socket, Options);
            Supervisor -> supervisor:start_child(Supervisor, [gen_tcp, Socket, Options])
        end,
    case Started of
        {ok, Pid} when is_pid(Pid) ->
            case gen_tcp:controlling_process(Socket, Pid) of
                ok -> Module:accept(Pid);
                _ -> exit(Pid, kill)
            end;
        _ ->
            gen_tcp:close(Socket)
    end.
