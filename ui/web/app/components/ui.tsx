// Small pieces of the page that know nothing of the mesh.

import "./ui.css";

import type { ReactNode } from "react";
import { Button, type ButtonProps } from "react-aria-components";

export type Tone = "neutral" | "allow" | "deny" | "warn";

export function Seal({ size = 24 }: { size?: number }) {
  return (
    <svg className="seal" width={size} height={size} viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" className="seal-ground" />
      <circle cx="16" cy="16" r="9.25" className="seal-ring" />
      <path d="M16 9.6 21.2 16 16 22.4 10.8 16Z" className="seal-stone" />
    </svg>
  );
}

export function Card(props: { title: string; aside?: ReactNode; tone?: Tone; children: ReactNode }) {
  return (
    <section className={`card tone-${props.tone ?? "neutral"}`} aria-label={props.title}>
      <header className="card-head">
        <h2>{props.title}</h2>
        {props.aside}
      </header>
      {props.children}
    </section>
  );
}

/** A state as a mark and a word: never colour alone. */
export function Status({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <span className={`status tone-${tone}`}>
      <Mark tone={tone} />
      {children}
    </span>
  );
}

export function Mark({ tone }: { tone: Tone }) {
  return (
    <svg className={`mark tone-${tone}`} width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">
      {tone === "allow" && <path d="M2 6.5 4.8 9.2 10 3.2" />}
      {tone === "deny" && <path d="M2.6 2.6 9.4 9.4M9.4 2.6 2.6 9.4" />}
      {tone === "warn" && <path d="M6 1.5V7M6 9.6v.9" />}
      {tone === "neutral" && <circle cx="6" cy="6" r="2.2" className="mark-dot" />}
    </svg>
  );
}

export function TextButton({ className = "", ...props }: ButtonProps & { className?: string }) {
  return <Button {...props} className={`button ${className}`} />;
}

export function Notice({ tone, title, children }: { tone: Tone; title: string; children?: ReactNode }) {
  return (
    <div className={`notice tone-${tone}`} role={tone === "deny" ? "alert" : "status"}>
      <Mark tone={tone} />
      <div>
        <strong>{title}</strong>
        {children !== undefined && <p>{children}</p>}
      </div>
    </div>
  );
}
