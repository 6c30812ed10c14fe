import "./filter-bar.css";

import {
  ComboBox,
  Button,
  Input,
  Label,
  ListBox,
  ListBoxItem,
  Popover,
  SearchField,
  ToggleButton,
  ToggleButtonGroup,
} from "react-aria-components";
import { useEffect, useState } from "react";

import { TextButton } from "../../components/ui";
import { type Filters, filtersOf, isFiltered, parseSearch, type TEXT_FILTERS } from "./search";

const ACTIONS = [
  "http:GET",
  "http:HEAD",
  "http:OPTIONS",
  "http:POST",
  "http:PUT",
  "http:PATCH",
  "http:DELETE",
  "http:OTHER",
  "grpc:call",
  "tcp:connect",
  "gateway:forward",
  "tls:handshake",
];

const TYPING_MS = 300;

export function FilterBar(props: {
  filters: Filters;
  workloads: readonly string[];
  services: readonly string[];
  onChange: (filters: Filters) => void;
}) {
  const { filters, onChange } = props;
  const set = (key: (typeof TEXT_FILTERS)[number], value: string | undefined) => {
    onChange(filtersOf(parseSearch({ ...filters, [key]: value?.trim() })));
  };
  return (
    <div className="filters" role="group" aria-label="Filters">
      <ToggleButtonGroup
        aria-label="Decision"
        className="toggle-group"
        selectionMode="single"
        disallowEmptySelection
        selectedKeys={[filters.decision ?? "all"]}
        onSelectionChange={(keys) => {
          const next: Filters = { ...filters };
          delete next.decision;
          if (keys.has("allow")) {
            next.decision = "allow";
          } else if (keys.has("deny")) {
            next.decision = "deny";
          }
          onChange(next);
        }}
      >
        <ToggleButton id="all">All</ToggleButton>
        <ToggleButton id="allow">Allowed</ToggleButton>
        <ToggleButton id="deny">Denied</ToggleButton>
      </ToggleButtonGroup>
      <TextFilter
        value={filters.q ?? ""}
        onChange={(value) => {
          set("q", value);
        }}
      />
      <ChoiceFilter
        label="Caller"
        value={filters.source}
        choices={props.workloads}
        onChange={(v) => {
          set("source", v);
        }}
      />
      <ChoiceFilter
        label="Service"
        value={filters.destination}
        choices={props.services}
        onChange={(v) => {
          set("destination", v);
        }}
      />
      <ChoiceFilter
        label="Action"
        value={filters.action}
        choices={ACTIONS}
        onChange={(v) => {
          set("action", v);
        }}
      />
      {isFiltered(filters) && (
        <TextButton
          className="quiet"
          onPress={() => {
            onChange({});
          }}
        >
          Clear
        </TextButton>
      )}
    </div>
  );
}

function TextFilter({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const [text, setText] = useState(value);
  useEffect(() => {
    setText(value);
  }, [value]);
  useEffect(() => {
    if (text === value) {
      return;
    }
    const timer = setTimeout(() => {
      onChange(text);
    }, TYPING_MS);
    return () => {
      clearTimeout(timer);
    };
  }, [text, value, onChange]);
  return (
    <SearchField
      aria-label="Search decisions"
      className="field field-search"
      value={text}
      onChange={setText}
      onSubmit={onChange}
    >
      <Input placeholder="Search path, policy, reason, decision or trace id" />
    </SearchField>
  );
}

function ChoiceFilter(props: {
  label: string;
  value: string | undefined;
  choices: readonly string[];
  onChange: (value: string | undefined) => void;
}) {
  const { value, onChange } = props;
  const [text, setText] = useState(value ?? "");
  useEffect(() => {
    setText(value ?? "");
  }, [value]);
  const items = [...new Set(value === undefined ? props.choices : [value, ...props.choices])].map((id) => ({
    id,
  }));
  return (
    <ComboBox
      className="field field-choice"
      allowsCustomValue
      menuTrigger="focus"
      items={items}
      defaultFilter={(item, typed) => typed === value || item.toLowerCase().includes(typed.toLowerCase())}
      inputValue={text}
      onInputChange={setText}
      value={value ?? null}
      onChange={(key) => {
        onChange(key === null ? text : String(key));
      }}
      onBlur={() => {
        if (text.trim() !== (value ?? "")) {
          onChange(text);
        }
      }}
    >
      <Label className="hidden-visually">{props.label}</Label>
      <Input placeholder={props.label} />
      <Button aria-label={`Choose ${props.label.toLowerCase()}`} className="field-open">
        <svg width="10" height="10" viewBox="0 0 10 10" aria-hidden="true">
          <path d="M2 3.5 5 6.5 8 3.5" />
        </svg>
      </Button>
      <Popover className="popover" placement="bottom start">
        <ListBox className="choices">
          {(item: { id: string }) => (
            <ListBoxItem id={item.id} textValue={item.id} className="choice">
              {item.id}
            </ListBoxItem>
          )}
        </ListBox>
      </Popover>
    </ComboBox>
  );
}
