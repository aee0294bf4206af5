%%% ejabberd's listener ejabberd_http behind the edge, see roost_edge.
-module(roost_edge_http).

-behaviour(ejabberd_listener).

-export([start/3, start_link/3, accept/1, listen_options/0, listen_opt_type/1]).

start(_, Socket, Options) -> roost_edge:start(ejabberd_http, Socket, Options).
start_link(_, Socket, Options) -> roost_edge:start_link(ejabberd_http, Socket, Options).
accept(Pid) -> roost_edge:accept(Pid).
listen_options() -> roost_edge:listen_options(ejabberd_http).
listen_opt_type(Option) -> roost_edge:listen_opt_type(ejabberd_http, Option).
