// How identities and services are shown: the short name first, the whole one for who asks.

import "./names.css";

import { parseService, parseSpiffeId } from "./format";

export function WorkloadName({ id }: { id: string | undefined }) {
  if (id === undefined) {
    return <span className="name name-none">no identity</span>;
  }
  const parts = parseSpiffeId(id);
  return parts ? <Name {...parts} title={id} /> : <span className="name mono">{id}</span>;
}

export function ServiceName({ service }: { service: string }) {
  if (service === "") {
    return <span className="name name-none">no service</span>;
  }
  const parts = parseService(service);
  return parts ? <Name {...parts} title={service} /> : <span className="name mono">{service}</span>;
}

function Name(props: { name: string; namespace: string; trustDomain: string; title: string }) {
  return (
    <span className="name" title={props.title}>
      <span className="name-main">{props.name}</span>{" "}
      <span className="name-rest">
        {props.namespace} · {props.trustDomain}
      </span>
    </span>
  );
}
