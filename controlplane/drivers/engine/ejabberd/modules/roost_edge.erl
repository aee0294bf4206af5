%%% The PROXY protocol in front of ejabberd's listeners, for the edge alone.
%%%
%%% ejabberd's own use_proxy_protocol believes a header from anybody, and reads it in the accepting process, so
%%% that one silent connection keeps all others waiting for ten seconds. Here each connection has its own
%%% process, whoever is not the edge is closed at once, and what follows the header is ejabberd's.
-module(roost_edge).

-export([start/3, start_link/3, accept/1, init/3, listen_options/1, listen_opt_type/2]).

-define(HEADER_TIMEOUT_MS, 5000).

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
    {edge_addresses, Edges} = proplists:lookup(edge_addresses, [{edge_addresses, []} | Options]),
    case from_edge(Socket, proplists:get_value(edge_addresses, Options, Edges)) andalso
        proxy_protocol:decode(gen_tcp, Socket, ?HEADER_TIMEOUT_MS)
    of
        {{Address, _}, {PeerAddress, _}} = Names when is_tuple(Address), is_tuple(PeerAddress) ->
            hand_on(Module, Socket, [{sock_peer_name, Names} | proplists:delete(edge_addresses, Options)]);
        _ ->
            gen_tcp:close(Socket)
    end.

from_edge(Socket, Edges) ->
    case inet:peername(Socket) of
        {ok, {Address, _}} -> lists:member(Address, Edges);
        _ -> false
    end.

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
