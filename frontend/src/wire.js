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
 * @property {number} [estimate_s]
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

/**
 * A background job. `progress` counts in units of its own; `cause` says why it failed.
 * @typedef {object} Job
 * @property {string} id
 * @property {string} type
 * @property {number} priority
 * @property {string} state
 * @property {Record<string, unknown>} [input]
 * @property {number} attempts
 * @property {{done: number, total: number, note: string}} progress
 * @property {Problem | string | null} cause
 * @property {string | null} created_at
 * @property {string | null} started_at
 * @property {string | null} ended_at
 */

/**
 * Whether background work may run, for the cluster and for each machine. Shares are 0 to 1.
 * @typedef {object} Gate
 * @property {string} state
 * @property {boolean} open
 * @property {string} reason
 * @property {boolean} open_for_long_jobs
 * @property {string} reason_for_long_jobs
 * @property {number} quiet_s
 * @property {{enabled: boolean, open: boolean, start: number, end: number}} night
 * @property {{usual: string[], expected_quiet_s: number | null, hours_known: number}} habits
 * @property {{idle_s: number, long_idle_s: number}} limits
 * @property {{node: string, state: string, open: boolean, reason: string, foreign_cpu: number | null, foreign_memory: number | null}[]} nodes
 */

/**
 * @typedef {object} BackgroundStatus
 * @property {Record<string, number>} jobs
 * @property {string | null} waiting_for
 * @property {Gate} gate
 * @property {boolean} paused
 * @property {{calls: number, total_tokens: number, max_calls: number | null, max_tokens: number | null}} today
 */

/**
 * Columns of one part of a machine: CPU in percent of the whole machine.
 * @typedef {object} UsagePart
 * @property {number[]} at
 * @property {(number | null)[]} cpu_percent
 * @property {(number | null)[]} cpu_max
 * @property {(number | null)[]} memory_bytes
 */

/** @typedef {{hours: number, step_s: number, nodes: {node: string, parts: Record<string, UsagePart>}[]}} Usage */

/**
 * A conversation that was kept. What stands from `markdown` on is told of one archive only.
 * @typedef {object} Archive
 * @property {string} id
 * @property {"stored" | "queued" | "running" | "structured" | "failed"} status
 * @property {string} title
 * @property {string} quick_summary
 * @property {number} messages_count
 * @property {number} chunks_total
 * @property {number} watermark
 * @property {number} items_count
 * @property {boolean} practice
 * @property {string | null} superseded_by
 * @property {Problem | null} error
 * @property {string} created_at
 * @property {string} [markdown]
 * @property {string[]} [session_ids]
 * @property {{total_tokens: number}} [token_usage]
 * @property {{id: string, title: string, score: number, shared_terms: string[]}[]} [related]
 */

export {};
