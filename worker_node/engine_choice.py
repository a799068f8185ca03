"""Which engines a node wraps: what the settings name, else what answers, else the embedded one."""

from __future__ import annotations

from common.errors import SettingsError
from common.http_client import make_client
from common.logs import get_logger
from common.node_settings import NodeSettings
from worker_node.engines.base import Engine, ModelLimits

log = get_logger(__name__)

LOCAL_OLLAMA = "http://127.0.0.1:11434"
_PROBE_S = 1.0


async def choose_engines(settings: NodeSettings) -> list[Engine]:
    """The main engine and, where an address for it is set, the background engine; not started yet.

    Raises `SettingsError` when the engine that was asked for has no address.
    """
    limits = ModelLimits(
        num_parallel=settings.num_parallel,
        max_loaded_models=settings.max_loaded_models,
        context_length=settings.context_length,
    )
    engines = [await _main_engine(settings, limits)]
    if settings.ollama_background_base_url:
        from worker_node.engines.ollama import OllamaEngine

        engines.append(
            OllamaEngine(
                name="background",
                base_url=_with_scheme(settings.ollama_background_base_url),
                limits=limits,
                connect_timeout_s=settings.connect_timeout_s,
                load_timeout_s=settings.load_timeout_s,
            )
        )
    log.info("engines", chosen=[f"{engine.name}={engine.kind}" for engine in engines])
    return engines


async def _main_engine(settings: NodeSettings, limits: ModelLimits) -> Engine:
    kind: str = settings.engine
    ollama_url = _with_scheme(settings.ollama_base_url or LOCAL_OLLAMA)
    if kind == "auto":
        kind = await _automatic(settings, ollama_url)
    if kind == "ollama":
        from worker_node.engines.ollama import OllamaEngine

        return OllamaEngine(
            name="main",
            base_url=ollama_url,
            limits=limits,
            connect_timeout_s=settings.connect_timeout_s,
            load_timeout_s=settings.load_timeout_s,
        )
    if kind == "openai":
        if not settings.openai_base_url:
            raise SettingsError(
                "engine `openai` needs COUNCIL_OPENAI_BASE_URL, such as http://127.0.0.1:8080/v1"
            )
        from worker_node.engines.openai_compatible import OpenAICompatibleEngine

        return OpenAICompatibleEngine(
            name="main",
            base_url=_with_scheme(settings.openai_base_url),
            api_key=settings.openai_api_key,
            limits=limits,
            connect_timeout_s=settings.connect_timeout_s,
        )
    from worker_node.engines.embedded import EmbeddedEngine

    return EmbeddedEngine(name="main", models_dir=settings.models_path, limits=limits)


async def _automatic(settings: NodeSettings, ollama_url: str) -> str:
    """An address that was set is tried before the one that Ollama has by default."""
    if settings.ollama_base_url and await _answers(ollama_url):
        return "ollama"
    if settings.openai_base_url:
        return "openai"
    if settings.ollama_base_url:
        log.warning("no Ollama answers at OLLAMA_BASE_URL; the embedded engine is used instead")
        return "embedded"
    return "ollama" if await _answers(ollama_url) else "embedded"


async def _answers(base_url: str) -> bool:
    import httpx

    async with make_client(base_url, connect_timeout_s=_PROBE_S, read_timeout_s=_PROBE_S) as client:
        try:
            response = await client.get("/api/version")
        except (httpx.HTTPError, OSError):
            return False
    return response.is_success and b"version" in response.content


def _with_scheme(url: str) -> str:
    """Ollama's users write `127.0.0.1:11434` as well."""
    return (url if "://" in url else f"http://{url}").rstrip("/")
