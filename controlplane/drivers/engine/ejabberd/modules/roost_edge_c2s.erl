%%% ejabberd's listener ejabberd_c2s behind the edge, see roost_edge.
-module(roost_edge_c2s).

-behaviour(ejabberd_listener).

-export([start/3, start_link/3, accept/1, listen_options/0, listen_opt_type/1]).

start(_, Socket, Options) -> roost_edge:start(ejabberd_c2s, Socket, Options).
start_link(_, Socket, Options) -> roost_edge:start_link(ejabberd_c2s, Socket, Options).
accept(Pid) -> roost_edge:accept(Pid).
listen_options() -> roost_edge:listen_options(ejabberd_c2s).
listen_opt_type(Option) -> roost_edge:listen_opt_type(ejabberd_c2s, Option).
