// The one place that talks to the REST API. Types come from the OpenAPI document of the server.

import createClient from "openapi-fetch";

import type { components } from "./schema";

type Schemas = components["schemas"];
export type Alert = Schemas["Alert"];
export type Posture = Schemas["Posture"];
export type Traffic = Schemas["Traffic"];
export type ClusterPosture = Schemas["ClusterPosture"];
export type FederationPosture = Schemas["FederationPosture"];
export type Reach = Schemas["Reach"];
export type Decision = Schemas["Decision"];
export type DecisionPage = Schemas["DecisionPage"];
export type Why = Schemas["Why"];
export type PolicyText = Schemas["PolicyText"];
export type NearestPolicy = Schemas["NearestPolicy"];
export type Verdict = Schemas["Verdict"];
export type SessionInfo = Schemas["SessionInfo"];
export type ServiceList = Schemas["ServiceList"];
export type Problem = Schemas["Problem"];

export const client = createClient<import("./schema").paths>({ baseUrl: "/" });

/** An answer that was not a success, with what the server said to do about it. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, problem: Problem | undefined) {
    super(problem?.message ?? `the dashboard server answered ${status}`);
    this.status = status;
    this.code = problem?.code ?? "unknown";
  }
}

/** Gives the data of an answer or throws what went wrong. */
export async function answer<T>(
  call: Promise<{ data?: T; error?: Problem; response: Response }>,
): Promise<T> {
  const { data, error, response } = await call;
  if (data === undefined) {
    throw new ApiError(response.status, error);
  }
  return data;
}
