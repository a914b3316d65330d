import { useTranslation } from "react-i18next";
import type { Facet } from "../../../api/wire";
import { formatCount } from "../../../app/format";
import { hasTerm } from "../api/filter";
import classes from "./FacetList.module.css";

/** How often each value occurs; a press adds the condition to the filter, or takes it away. */
export function FacetList({
  facets,
  filter,
  onToggle,
}: {
  facets: Facet[];
  filter: string;
  onToggle: (term: string) => void;
}) {
  const { t } = useTranslation();
  return (
    <div className={classes.facets}>
      {facets.map((facet) => {
        const most = Math.max(1, ...facet.values.map((v) => v.records));
        return (
          <section key={facet.field} aria-label={t(`flows.facet.${facet.field.replace(".", "_")}`)}>
            <h3 className={classes.title}>{t(`flows.facet.${facet.field.replace(".", "_")}`)}</h3>
            <ul className={classes.values}>
              {facet.values.map((v) => (
                <li key={v.term}>
                  <button
                    type="button"
                    className={classes.value}
                    aria-pressed={hasTerm(filter, v.term)}
                    title={v.term}
                    data-testid={`facet-${v.term}`}
                    onClick={() => onToggle(v.term)}
                  >
                    <meter
                      className={classes.bar}
                      max={most}
                      value={v.records}
                      aria-hidden="true"
                    />
                    <span className={classes.name}>{v.value}</span>
                    <span className={classes.count}>{formatCount(v.records)}</span>
                  </button>
                </li>
              ))}
            </ul>
          </section>
        );
      })}
    </div>
  );
}
