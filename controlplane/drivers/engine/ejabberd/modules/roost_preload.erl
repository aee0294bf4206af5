%%% The modules that an instance has loaded when it is ready, for roost:run() to load in batches. The list only
%%% saves time: a module that is missing here is loaded when it is called.
-module(roost_preload).

-export([modules/0]).

modules() ->
    [].
