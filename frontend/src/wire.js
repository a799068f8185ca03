// The master's wire shapes, as types. There is no code here.

/** @typedef {"opinions" | "review" | "synthesis"} Stage */
/** @typedef {"queued" | Stage | "completed" | "failed" | "cancelled"} SessionState */
/** @typedef {"waiting" | "queued" | "running" | "done" | "failed"} CallState */

/**
 * @typedef {object} Problem
 * @property {string} [title]
 * @property {string} [detail]
 * @property {string} [code]
 * @property {number} [status]
 * @property {string} [node]
 * @property {string} [model]
 * @property {string[]} [models]
 */

/**
 * @typedef {object} TokenUsage
 * @property {number} prompt_tokens
 * @property {number} completion_tokens
 * @property {number} total_tokens
 */

/**
 * @typedef {object} CallLatency
 * @property {string} [node]
 * @property {number} [queue_ms]
 * @property {number} [load_ms]
 * @property {number} [prompt_ms]
 * @property {number} [generate_ms]
 * @property {number} [network_ms]
 * @property {number} [first_token_ms]
 * @property {number} [total_ms]
 * @property {number} [tokens_per_second]
 * @property {TokenUsage} [token_usage]
 */

/**
 * @typedef {object} StageTokenUsage
 * @property {number} total_prompt_tokens
 * @property {number} total_completion_tokens
 * @property {number} total_tokens
 * @property {Record<string, TokenUsage>} by_model
 */

/**
 * @typedef {object} StageLatency
 * @property {number} duration_ms
 * @property {Record<string, CallLatency>} by_agent
 */

/**
 * @typedef {object} SessionTokenUsage
 * @property {StageTokenUsage | null} stage1_opinions
 * @property {StageTokenUsage | null} stage2_review
 * @property {StageTokenUsage | null} stage3_synthesis
 * @property {number} [total_prompt_tokens]
 * @property {number} [total_completion_tokens]
 * @property {number} [total_tokens]
 */

/**
 * @typedef {object} SessionLatency
 * @property {StageLatency | null} stage1_opinions
 * @property {StageLatency | null} stage2_review
 * @property {StageLatency | null} stage3_synthesis
 * @property {number} [total_duration_ms]
 */

/**
 * @typedef {object} Agent
 * @property {string} agent_id
 * @property {string} model
 * @property {string | null} [persona]
 * @property {string | null} [node]
 * @property {CallState} state
 * @property {string | null} [opinion]
 * @property {CallState | "abstained"} [review_state]
 * @property {Problem | string | null} [error]
 */

/**
 * @typedef {object} Ballot
 * @property {string} reviewer
 * @property {{agent_id: string, score: number, reasoning: string}[]} rankings
 * @property {boolean} [abstained]
 * @property {string | null} [reason]
 */

/**
 * @typedef {object} Rank
 * @property {string} agent_id
 * @property {number} rank
 * @property {number | null} borda
 * @property {number | null} mean_score
 * @property {number} votes
 */

/**
 * @typedef {object} Synthesis
 * @property {string} text
 * @property {string} model
 * @property {string | null} [node]
 * @property {"chairman" | "fallback_chairman" | "top_ranked"} kind
 */

/**
 * @typedef {object} CouncilSession
 * @property {string} id
 * @property {string | null} [conversation_id]
 * @property {number} [run]
 * @property {string} question
 * @property {SessionState} state
 * @property {"full" | "degraded" | "single" | null} [result]
 * @property {string[]} [missing_agents]
 * @property {boolean} [practice]
 * @property {boolean} [cached]
 * @property {unknown[]} [trimmed]
 * @property {unknown[]} [warnings]
 * @property {Problem | string | null} [error]
 * @property {string | null} [chairman]
 * @property {Agent[]} [agents]
 * @property {Ballot[]} [ballots]
 * @property {Rank[]} [ranking]
 * @property {number | null} [agreement]
 * @property {boolean} [contested]
 * @property {Synthesis | null} [synthesis]
 * @property {string | null} [top_answer]
 * @property {SessionTokenUsage | null} [token_usage]
 * @property {SessionLatency | null} [latency_stats]
 * @property {string} [created_at]
 * @property {string | null} [completed_at]
 */

/**
 * One event of a session. Which fields are there depends on `type`.
 * @typedef {object} CouncilEvent
 * @property {number} seq
 * @property {string} type
 * @property {string} [session_id]
 * @property {string} [at]
 * @property {Stage} [stage]
 * @property {string} [agent_id]
 * @property {string} [reviewer]
 * @property {number} [position]
 * @property {string} [node]
 * @property {string} [model]
 * @property {"answer" | "thinking"} [channel]
 * @property {string} [text]
 * @property {string} [from_node]
 * @property {string} [to_node]
 * @property {string} [reason]
 * @property {TokenUsage | StageTokenUsage} [token_usage]
 * @property {CallLatency | StageLatency} [latency]
 * @property {Problem | string} [error]
 * @property {Rank[]} [ranking]
 * @property {Ballot["rankings"]} [rankings]
 * @property {number} [run]
 * @property {CouncilSession["result"]} [result]
 * @property {CouncilSession} [session]
 * @property {Record<string, Record<string, string | {answer?: string, thinking?: string}>>} [partial]
 */

/**
 * @typedef {object} Model
 * @property {string} name
 * @property {number | null} [size]
 * @property {string} [engine]
 * @property {boolean} [resident]
 * @property {number | null} [slots]
 * @property {string[] | null} [capabilities]
 * @property {(string | {name: string})[]} [nodes]
 * @property {boolean} [practice]
 */

/**
 * @typedef {object} Worker
 * @property {string} name
 * @property {string} [url]
 * @property {string} [state]
 * @property {string | null} [error]
 * @property {string | null} [version]
 * @property {number} [running]
 * @property {(string | {name?: string, kind?: string, version?: string, status?: string})[]} [engines]
 * @property {number | Record<string, number> | null} [slots]
 * @property {(string | Model)[]} [models]
 */

/**
 * @typedef {object} Health
 * @property {"healthy" | "degraded" | "unhealthy"} status
 * @property {string} [name]
 * @property {string} [version]
 * @property {number} [uptime_s]
 * @property {Record<string, unknown>} [checks]
 */

/**
 * Where background calls go. `warning` while that is not the background engine.
 * @typedef {object} BackgroundEngine
 * @property {"connected" | "down" | "none"} state
 * @property {string} policy
 * @property {"background" | "main" | "wait" | "fail"} target
 * @property {string | null} warning
 * @property {{name: string | null, note: string | null}} model
 * @property {{node: string, state: string, models: string[]}[]} engines
 */

export {};
