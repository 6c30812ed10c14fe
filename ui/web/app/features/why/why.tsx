import "./why.css";

import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useEffect, useRef } from "react";

import type { NearestPolicy, PolicyText, Why } from "../../api/client";
import { whyQuery } from "../../api/queries";
import { formatLatency, formatMoment, shortCommit } from "../../components/format";
import { Notice, Status, TextButton } from "../../components/ui";
import { DecisionStatus } from "../decisions/columns";
import { reasonWords } from "../decisions/words";
import { tlsWords, verdictWords, whoCalledWhat } from "./words";

export function WhyPanel({ id, onClose }: { id: string; onClose: () => void }) {
  const { data, error } = useQuery(whyQuery(id));
  const panel = useRef<HTMLElement>(null);

  useEffect(() => {
    panel.current?.focus({ preventScroll: true });
  }, []);

  return (
    <aside
      ref={panel}
      className="why"
      aria-label="Why this decision"
      tabIndex={-1}
      onKeyDown={(event) => {
        if (event.key === "Escape") {
          onClose();
        }
      }}
    >
      <header className="why-head">
        {data ? <DecisionStatus decision={data.decision} /> : <span>Why</span>}
        {data && <time className="why-time">{formatMoment(data.decision.time)}</time>}
        <TextButton className="quiet" aria-label="Close the explanation" onPress={onClose}>
          Close
        </TextButton>
      </header>
      <div className="why-body">
        {data && <Explanation why={data} />}
        {error && (
          <Notice tone="deny" title="This decision could not be explained">
            {error.message}
          </Notice>
        )}
        {!data && !error && <p className="why-loading">Computing it again from the recorded inputs…</p>}
      </div>
    </aside>
  );
}

function Explanation({ why }: { why: Why }) {
  const { decision } = why;
  return (
    <>
      <div className="why-answer">
        <h2>{whoCalledWhat(decision)}</h2>
        <p>{verdictWords(decision)}</p>
      </div>
      <Checked why={why} />
      {why.determining.length > 0 && (
        <Section
          title={why.determining.length === 1 ? "The policy that decided" : "The policies that decided"}
        >
          {why.determining.map((policy) => (
            <Policy key={`${policy.path} ${policy.id}`} policy={policy} />
          ))}
        </Section>
      )}
      {why.nearest.length > 0 && (
        <Section title="Permits that came nearest">
          {why.nearest.map((nearest) => (
            <Nearest key={`${nearest.policy.path} ${nearest.policy.id}`} nearest={nearest} />
          ))}
        </Section>
      )}
      {why.shadow && (
        <Section title="Shadow policies">
          <p>
            {why.shadow.decision === "allow" ? "Would be allowed" : "Would be denied"} if{" "}
            <code>{why.shadow.policy_ids.join(", ")}</code> were enforced.
          </p>
        </Section>
      )}
      <Section title="Who and how">
        <dl className="facts">
          <Fact name="Caller" value={decision.source ?? "no identity"} mono />
          <Fact name="Called from" value={decision.source_address} mono />
          <Fact name="Service" value={decision.service} mono />
          <Fact name="Answered as" value={decision.destination} mono />
          <Fact name="Action" value={decision.action} mono />
          <Fact name="Path" value={decision.path} mono />
          <Fact name="Encryption" value={tlsWords(decision.tls)} />
          <Fact name="Reason" value={reasonWords(decision.reason)} />
          <Fact name="Enforcement" value={decision.enforcement} />
          <Fact
            name="Decided in"
            value={decision.latency_us === undefined ? undefined : formatLatency(decision.latency_us)}
          />
        </dl>
      </Section>
      <Section title="Record">
        <dl className="facts">
          <Fact name="Decision" value={decision.id} mono />
          <Fact name="Trace" value={decision.trace_id} mono />
          <Fact name="Policy commit" value={decision.policy_commit} mono />
          <Fact name="Signed by" value={why.signer} />
          <Fact name="Bundle" value={decision.bundle_digest} mono />
          <Fact name="Recorded by" value={decision.proxy} mono />
          <Fact name="Log" value={`${decision.log}, entry ${decision.leaf_index}`} mono />
        </dl>
      </Section>
      {why.context.length > 0 && (
        <Section title="What the policies could read">
          <dl className="facts">
            {why.context.map((item) => (
              <Fact key={item.name} name={item.name} value={item.value} mono />
            ))}
          </dl>
        </Section>
      )}
      {why.detail !== undefined && why.detail !== "" && (
        <Section title="Detail">
          <pre className="policy-text">{why.detail}</pre>
        </Section>
      )}
    </>
  );
}

function Checked({ why }: { why: Why }) {
  const { status, detail } = why.recomputation;
  switch (status) {
    case "same":
      return (
        <p className="why-checked">
          <Status tone="allow">Computed again</Status> from the recorded inputs and policy commit{" "}
          <code>{shortCommit(why.decision.policy_commit)}</code>: same answer.
        </p>
      );
    case "different":
      return (
        <Notice tone="deny" title="Computed again, this decision comes out differently">
          {detail}
        </Notice>
      );
    case "not_recomputable":
      return (
        <p className="why-checked">
          <Status tone="neutral">Not computed again</Status>
          {detail === undefined ? "" : `: ${detail}.`}
        </p>
      );
  }
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className="why-section">
      <h3>{title}</h3>
      {children}
    </section>
  );
}

function Place({ policy }: { policy: PolicyText }) {
  return (
    <div className="policy-place">
      <strong>{policy.id}</strong>
      <code>
        {policy.path}:{policy.line}
      </code>
    </div>
  );
}

function Policy({ policy }: { policy: PolicyText }) {
  return (
    <div className="policy">
      <Place policy={policy} />
      <pre className="policy-text">{policy.text}</pre>
    </div>
  );
}

function Nearest({ nearest }: { nearest: NearestPolicy }) {
  return (
    <div className="policy">
      <Place policy={nearest.policy} />
      <ul className="clauses">
        {nearest.failed.map((clause) => (
          <li key={`${clause.line} ${clause.text}`}>
            <code className="clause">{clause.text}</code>
            <span className="clause-line">line {clause.line}</span>
            <dl className="clause-values">
              {clause.expected !== "" && (
                <div>
                  <dt>wants</dt>
                  <dd>
                    <code>{clause.expected}</code>
                  </dd>
                </div>
              )}
              {clause.actual !== "" && (
                <div>
                  <dt>was</dt>
                  <dd>
                    <code>{clause.actual}</code>
                  </dd>
                </div>
              )}
            </dl>
          </li>
        ))}
      </ul>
      <details>
        <summary>Policy text</summary>
        <pre className="policy-text">{nearest.policy.text}</pre>
      </details>
    </div>
  );
}

function Fact({ name, value, mono = false }: { name: string; value: string | undefined; mono?: boolean }) {
  if (value === undefined || value === "") {
    return null;
  }
  return (
    <div>
      <dt>{name}</dt>
      <dd className={mono ? "mono" : undefined}>{value}</dd>
    </div>
  );
}
