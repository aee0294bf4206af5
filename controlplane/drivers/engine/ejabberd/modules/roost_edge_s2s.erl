%%% ejabberd's listener ejabberd_s2s_in behind the edge, see roost_edge.
-module(roost_edge_s2s).

-behaviour(ejabberd_listener).

-export([start/3, start_link/3, accept/1, listen_options/0, listen_opt_type/1]).

start(_, Socket, Options) -> roost_edge:start(ejabberd_s2s_in, Socket, Options).
start_link(_, Socket, Options) -> roost_edge:start_link(ejabberd_s2s_in, Socket, Options).
accept(Pid) -> roost_edge:accept(Pid).
listen_options() -> roost_edge:listen_options(ejabberd_s2s_in).
listen_opt_type(Option) -> roost_edge:listen_opt_type(ejabberd_s2s_in, Option).
