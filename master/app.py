"""The master as an ASGI application: what it is made of, in the order in which it starts."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from common import __version__
from common.asgi import App
from common.logs import get_logger
from common.master_settings import MasterSettings
from master.api import (
    archives,
    background,
    background_engine,
    cluster,
    conversations,
    events,
    gate,
    health,
    job_calls,
    joining,
    keys,
    models,
    openai,
    page,
    problems,
    sessions,
    usage,
)
from master.api.direct import DirectRoutes
from master.api.guard import Access, Guard
from master.api.peering import Peering
from master.background.calls import BackgroundCalls
from master.background.catalogue import Catalogue
from master.background.executor import Executor
from master.background.gatekeeper import Gatekeeper
from master.background.jobs import JobService
from master.background.limits import JobLimits
from master.cluster.dispatch import Dispatcher, Limits
from master.cluster.listed_nodes import parse_node, parse_weights
from master.cluster.registry import Registry
from master.cluster.shared_nodes import SharedNodes
from master.cluster.speed_keeping import keeping
from master.cluster.usage_keeping import UsageKeeper
from master.cluster.wake import check_settings as check_wake_settings
from master.council.service import CouncilService
from master.keyring import KeyRing
from master.knowledge.archiving import ArchiveService
from master.masters import Masters
from master.services import Services
from master.state.database import parse_address
from master.state.durable import Place
from master.state.executors import Executors
from master.state.store import Store

if TYPE_CHECKING:
    from master.authority import ClusterAuthority
    from master.state.presence import Presence

_log = get_logger(__name__)


def create_app(settings: MasterSettings) -> FastAPI:
    """Build the application; nothing is opened before its lifespan starts."""
    access = Access(
        host=settings.host,
        insecure_lan=settings.insecure_lan,
        cors_origins=settings.cors_origins,
        max_import_bytes=settings.max_import_mib * 1024 * 1024,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _services(settings) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="lan-council",
        version=__version__,
        summary="A council of local language models on the PCs you already own.",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
    )
    app.state.access = access
    problems.install(app)
    routed = (openai, sessions, events, models, cluster, joining, keys, conversations)
    modules = (background, background_engine, archives, gate, job_calls, usage, health, page)
    for module in (*routed, *modules):
        app.include_router(module.router)
    app.include_router(cluster.masters_router)
    # What is added later is asked earlier: the guard first, these last.
    app.add_middleware(gate.Ears)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **_cors(settings))
    app.add_middleware(Peering)
    app.add_middleware(page.PageHeaders)
    app.add_middleware(Guard, access=access)
    return app


def as_served(app: FastAPI, settings: MasterSettings) -> App:
    """What the server calls: `app`, and before its layers what every token passes."""
    chat: Any = openai.chat_completions
    if settings.cors_origins:
        chat = CORSMiddleware(chat, **_cors(settings))
    return DirectRoutes(app, {openai.CHAT_PATH: Guard(chat, app.state.access)})


def _cors(settings: MasterSettings) -> dict[str, Any]:
    return {
        "allow_origins": settings.cors_origins,
        "allow_methods": ["GET", "POST", "DELETE"],
        "allow_headers": ["authorization", "content-type", "idempotency-key", "traceparent"],
        "expose_headers": ["location", "retry-after"],
    }


@asynccontextmanager
async def _services(settings: MasterSettings) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        store = await Store.open(settings.sqlalchemy_url, data_dir=settings.data_dir)
        stack.push_async_callback(store.close)
        presence = await _presence(settings, store, stack)
        authority = await _authority(settings, store)
        registry = Registry(
            heartbeat_s=settings.heartbeat_s,
            connect_timeout_s=settings.connect_timeout_s,
            authority=authority.certificate if authority else None,
            weights=parse_weights(settings.node_weights),
            insecure_lan=settings.insecure_lan,
        )
        stack.push_async_callback(registry.close)
        dispatcher = Dispatcher(registry, Limits.of(settings), max_waiting=settings.max_waiting_calls)
        await stack.enter_async_context(keeping(dispatcher.speeds, store.speeds))
        gatekeeper = Gatekeeper(
            settings, registry, calls_on=dispatcher.lanes.running_on, store=store.activity
        )
        dispatcher.on_use, dispatcher.on_use_end = gatekeeper.begin_use, gatekeeper.end_use
        if presence is not None:
            presence.used_s_ago, presence.on_use_elsewhere = gatekeeper.used_s_ago, gatekeeper.hear_elsewhere
        await stack.enter_async_context(gatekeeper.running())
        used = UsageKeeper(registry, store.usage, data_dir=settings.data_dir)
        await stack.enter_async_context(used.running())
        calls = BackgroundCalls(
            dispatcher,
            policy=settings.background_policy,
            model=settings.ollama_background_model,
            gate=gatekeeper,
        )
        registry.on_mac = store.nodes.set_mac
        check_wake_settings(settings.wake, settings.wake_address)
        nodes = await _know_nodes(settings, store, registry, dispatcher)
        council = CouncilService(
            settings=settings,
            store=store,
            registry=registry,
            dispatcher=dispatcher,
            lives=presence.lives if presence else None,
        )
        await stack.enter_async_context(council.running())
        executor = Executor(
            store=store,
            place=Place.beside(settings.sqlalchemy_url),
            catalogue=Catalogue.of(priorities=settings.bg_priorities, extensions=settings.job_types),
            executors=presence or Executors(settings.data_dir / "executors"),
            model=calls,
            gate=gatekeeper,
            limits=JobLimits.of(settings),
            takes_jobs=settings.bg_in_master,
        )
        await stack.enter_async_context(executor.running())
        jobs = JobService(executor, store=store, model=calls)
        kept = ArchiveService(
            settings=settings,
            store=store,
            registry=registry,
            dispatcher=dispatcher,
            council=council,
            jobs=jobs,
        )
        await kept.queue_stored()
        masters = Masters(
            store=store,
            council=council,
            presence=presence,
            nodes=nodes,
            authority=authority.certificate if authority else None,
            connect_timeout_s=settings.connect_timeout_s,
        )
        await stack.enter_async_context(masters.running())
        peer_key = presence.cluster_key if presence else None
        keyring = KeyRing(store.access, registry, admin_key=settings.key, peer_key=peer_key)
        renewing = asyncio.create_task(authority.renewing()) if authority else None
        try:
            yield Services(
                settings,
                store,
                registry,
                dispatcher,
                calls,
                council,
                kept,
                jobs,
                masters,
                keyring,
                gatekeeper,
                used,
                authority,
            )
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)


async def _authority(settings: MasterSettings, store: Store) -> ClusterAuthority | None:
    """The cluster's authority where other machines are served over TLS."""
    if not settings.serves_tls:
        return None
    # Late and in a thread: it imports the cryptography that a master on loopback never needs.
    from master.authority import ClusterAuthority

    if settings.on_server and settings.key is not None:
        from master.shared_authority import share

        await share(settings.data_dir, store.secrets, settings.key)
    return await asyncio.to_thread(
        ClusterAuthority.open, settings.data_dir, host=settings.host, own=settings.own_certificate
    )


async def _presence(settings: MasterSettings, store: Store, stack: AsyncExitStack) -> Presence | None:
    """This master among others, where the database is one that others may use."""
    if not settings.on_server:
        return None
    from master.state.presence import Presence  # late: a master alone needs none of it

    presence = Presence(
        parse_address(settings.sqlalchemy_url),
        name=settings.name,
        version=__version__,
        data_dir=settings.data_dir,
        cluster_key=await store.secrets.keep_first("peer key", secrets.token_urlsafe(32)),
    )
    await stack.enter_async_context(presence.running())
    store.sessions.owner = presence.id
    return presence


async def _know_nodes(
    settings: MasterSettings, store: Store, registry: Registry, dispatcher: Dispatcher
) -> SharedNodes:
    """Nodes of the settings first, then those that `council worker add` left in the database."""
    for entry in settings.nodes:
        one = parse_node(entry)
        registry.add(one.url, name=one.name, key=one.key, fingerprint=one.fingerprint)
    nodes = SharedNodes(registry, dispatcher.pump)
    nodes.start_with(await store.nodes.list())
    return nodes
